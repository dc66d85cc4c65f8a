"""Finished runs on disk: the trained module, loaders of its splits, and the store of latents.

Store (npz, no pickles): one group of arrays per scan id, `{id}/mu` and `{id}/logvar` (d,), `{id}/targets` (ln V_mass
and centroid), `{id}/features` and `{id}/present` (semantic features), `{id}/patient`, `{id}/split` and, for dated
scans, `{id}/t_months`; `provenance` is JSON with modalities, config hash, checkpoint hash, names of the features and,
if the latent has named parts, their ranges and the normaliser of the targets.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from neuromf.core.files import atomic_write, sha256
from neuromf.data.multimodal import check_modality_order
from neuromf.data.multimodal_loaders import make_dataset, make_loader
from neuromf.data.multimodal_transforms import ImageSettings, val_transforms
from neuromf.data.semantic_features import FEATURES
from neuromf.data.subject_splits import read_split
from neuromf.growth.factory import build_module
from neuromf.growth.module import VAELitModule
from neuromf.growth.partition import Partition
from neuromf.growth.probes import volume_and_centroid
from neuromf.growth.semantic_heads import subject_features

Scans = Mapping[str, Mapping[str, NDArray]]  # groups of a store by scan id
SETTINGS = ("modalities", "roi_size", "spacing", "orientation", "nonzero", "pad_value", "train_margin", "label_map")


def read_config(run: Path) -> dict[str, Any]:
    """config_resolved.yaml of a run."""
    return yaml.safe_load((run / "config_resolved.yaml").read_text(encoding="utf-8"))


def load_module(run: Path, checkpoint: str | None = None) -> VAELitModule:
    """Module of a run with the weights of a checkpoint, in evaluation mode; by default the best of its kind."""
    config = read_config(run)
    sections = {name: config[name] for name in ("model", "loss", "train")}
    module = build_module(roi_size=config["data"]["roi_size"], n_train=1, **sections)
    name = checkpoint or best_checkpoint(module)
    state = torch.load(run / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
    weights = {name: value for name, value in state["state_dict"].items() if name.startswith("model.")}
    module.model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    return module.eval()


def best_checkpoint(module: VAELitModule) -> str:
    """Name of the checkpoint that later stages use: the module's own, or that with the best ELBO on validation."""
    return next(iter(module.monitors), "best_elbo")


def split_loader(run: Path, split: str) -> DataLoader:
    """Subjects of a split of a run ("train", "val", "test") in the order of its table, without random transforms."""
    data = read_config(run)["data"]
    settings = ImageSettings(**{key: data[key] for key in SETTINGS if key in data})
    subjects = read_split(run / "splits" / f"{split}.csv", data["modalities"])
    cache: dict[str, Any] = {"cache_dir": run / data["persistent_cache_subdir"], "cache": data["cache"]}
    dataset = make_dataset(subjects, val_transforms(settings), settings, **cache)
    return make_loader(dataset, data["batch_size"], 0)


@torch.no_grad()
def encode(model: nn.Module, loader: DataLoader, spacing_mm: Sequence[float]) -> dict[str, Any]:
    """mu, logvar (N, d) and targets (N, 4) as float32 arrays; id and patient as lists; see `volume_and_centroid`."""
    device = next(model.parameters()).device
    columns: dict[str, list] = {name: [] for name in ("mu", "logvar", "targets", "id", "patient")}
    for batch in loader:
        mu, logvar = model.encode(batch["image"].to(device))  # type: ignore[operator]  # a VAE, or a frozen encoder
        targets = volume_and_centroid(batch["seg"], spacing_mm)
        for name, value in (("mu", mu), ("logvar", logvar), ("targets", targets)):
            columns[name].extend(value.float().cpu().numpy())
        columns["id"] += batch["id"]
        columns["patient"] += batch["patient"]
    return {name: np.stack(rows) if name in ("mu", "logvar", "targets") else rows for name, rows in columns.items()}


def export_latents(run: Path, out: Path, *, trajectories: Path | None = None) -> None:
    """Encode all subjects of a run's splits into a store.

    Arguments:
        run: Run directory.
        out: File of the store.
        trajectories: Table with scan_id and t_months; None for scans without dates.
    """
    config, module = read_config(run), load_module(run)
    checkpoint = run / "checkpoints" / f"{best_checkpoint(module)}.ckpt"
    about = {
        "modalities": config["data"]["modalities"],
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "checkpoint": sha256(checkpoint),
        "features": FEATURES,
    }
    if config["model"].get("variant") == "semi":
        about["partition"] = Partition.of_widths(config["model"]["partition"], config["model"]["z_dim"]).ranges()
        about["normaliser"] = json.loads((run / "semantic_targets.json").read_text())
    write_store(out, about, encode_splits(module.model, run, trajectories))


def encode_splits(model: nn.Module, run: Path, trajectories: Path | None = None) -> dict[str, NDArray]:
    """Arrays of a store of all subjects of a run."""
    spacing = read_config(run)["data"]["spacing"]
    dates = pd.read_csv(trajectories, sep="\t", index_col="scan_id")["t_months"] if trajectories else {}
    arrays: dict[str, NDArray] = {}
    for path in sorted((run / "splits").glob("*.csv")):
        loader = split_loader(run, path.stem)
        found, (features, present) = encode(model, loader, spacing), subject_features(loader.dataset, spacing)
        for k, name in enumerate(found["id"]):
            arrays |= {f"{name}/{key}": found[key][k] for key in ("mu", "logvar", "targets")}
            arrays |= {f"{name}/patient": np.array(found["patient"][k]), f"{name}/split": np.array(path.stem)}
            arrays[f"{name}/features"] = features.loc[name].to_numpy(float)
            arrays[f"{name}/present"] = present.loc[name].to_numpy(bool)
            if name in dates:
                arrays[f"{name}/t_months"] = np.array(float(dates[name]))
    return arrays


def write_store(out: Path, about: dict[str, Any], arrays: dict[str, NDArray]) -> None:
    """Write a store atomically."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part, open(part, "wb") as file:
        np.savez(file, provenance=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]  # arrays by name


def read_partition(path: Path) -> Partition | None:
    """Named parts of the latents of a store; None if they have none."""
    with np.load(path) as store:
        ranges = json.loads(str(store["provenance"])).get("partition")
    return Partition(ranges, max(stop for _, stop in ranges.values())) if ranges else None


def named_partition(path: Path) -> Partition:
    """Named parts of the latents of a store.

    Raises:
        ValueError: If they have none.
    """
    if (partition := read_partition(path)) is None:
        raise ValueError(f"latents of {path} have no partition; forecasts need those of experiment 3, variant semi")
    return partition


def read_latents(path: Path, modalities: Sequence[str]) -> dict[str, dict[str, NDArray]]:
    """Groups of a store by scan id.

    Raises:
        ValueError: If the store was made with other modalities, or in another order.
    """
    groups: dict[str, dict[str, NDArray]] = {}
    with np.load(path) as store:
        about = json.loads(str(store["provenance"]))
        check_modality_order(modalities, about["modalities"], str(path))
        for name in store.files:
            scan, _, key = name.rpartition("/")
            if scan:
                groups.setdefault(scan, {})[key] = store[name]
    return groups


def visits_by_patient(scans: Scans) -> dict[str, list[str]]:
    """Ids of dated scans by patient, in the order of their dates."""
    found: dict[str, list[str]] = {}
    for name in sorted(scans, key=lambda name: float(scans[name].get("t_months", 0))):
        if "t_months" in scans[name]:
            found.setdefault(str(scans[name]["patient"]), []).append(name)
    return found
