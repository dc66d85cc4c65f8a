"""Finished runs on disk: the trained module, loaders of its splits, and the store of latents.

Store (npz, no pickles): one group of arrays per scan id, `{id}/mu` and `{id}/logvar` (d,), `{id}/targets` (ln V_mass
and centroid), `{id}/patient`, `{id}/split` and, for dated scans, `{id}/t_months`; `provenance` is JSON with modalities,
config hash and checkpoint hash.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from neuromf.core.files import atomic_write, sha256
from neuromf.data.multimodal import check_modality_order
from neuromf.data.multimodal_loaders import make_dataset, make_loader
from neuromf.data.multimodal_transforms import ImageSettings, val_transforms
from neuromf.data.subject_splits import read_split
from neuromf.growth.factory import build_module
from neuromf.growth.module import VAELitModule
from neuromf.growth.probes import volume_and_centroid

SETTINGS = ("modalities", "roi_size", "spacing", "orientation", "nonzero", "pad_value", "train_margin", "label_map")


def read_config(run: Path) -> dict[str, Any]:
    """config_resolved.yaml of a run."""
    return yaml.safe_load((run / "config_resolved.yaml").read_text(encoding="utf-8"))


def load_module(run: Path, checkpoint: str = "best_elbo") -> VAELitModule:
    """Module of a run with the weights of a checkpoint, in evaluation mode."""
    config = read_config(run)
    sections = {name: config[name] for name in ("model", "loss", "train")}
    module = build_module(roi_size=config["data"]["roi_size"], n_train=1, **sections)
    state = torch.load(run / "checkpoints" / f"{checkpoint}.ckpt", map_location="cpu", weights_only=True)
    weights = {name: value for name, value in state["state_dict"].items() if name.startswith("model.")}
    module.model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    return module.eval()


def split_loader(run: Path, split: str) -> DataLoader:
    """Subjects of a split of a run ("train", "val", "test") in the order of its table, without random transforms."""
    data = read_config(run)["data"]
    settings = ImageSettings(**{key: data[key] for key in SETTINGS if key in data})
    subjects = read_split(run / "splits" / f"{split}.csv", data["modalities"])
    cache: dict[str, Any] = {"cache_dir": run / data["persistent_cache_subdir"], "cache": data["cache"]}
    dataset = make_dataset(subjects, val_transforms(settings), settings, **cache)
    return make_loader(dataset, data["batch_size"], 0)


@torch.no_grad()
def encode(module: VAELitModule, loader: DataLoader, spacing_mm: Sequence[float]) -> dict[str, Any]:
    """mu, logvar (N, d) and targets (N, 4) as float32 arrays; id and patient as lists; see `volume_and_centroid`."""
    columns: dict[str, list] = {name: [] for name in ("mu", "logvar", "targets", "id", "patient")}
    for batch in loader:
        mu, logvar = module.model.encode(batch["image"].to(module.device))
        targets = volume_and_centroid(batch["seg"], spacing_mm)
        for name, value in (("mu", mu), ("logvar", logvar), ("targets", targets)):
            columns[name].extend(value.float().cpu().numpy())
        columns["id"] += batch["id"]
        columns["patient"] += batch["patient"]
    return {name: np.stack(rows) if name in ("mu", "logvar", "targets") else rows for name, rows in columns.items()}


def export_latents(run: Path, out: Path, *, checkpoint: str = "best_elbo", trajectories: Path | None = None) -> None:
    """Encode all subjects of a run's splits into a store.

    Arguments:
        run: Run directory.
        out: File of the store.
        checkpoint: Name of the checkpoint.
        trajectories: Table with scan_id and t_months; None for scans without dates.
    """
    config, module = read_config(run), load_module(run, checkpoint)
    dates = pd.read_csv(trajectories, sep="\t", index_col="scan_id")["t_months"] if trajectories else {}
    arrays: dict[str, NDArray] = {}
    for path in sorted((run / "splits").glob("*.csv")):
        found = encode(module, split_loader(run, path.stem), config["data"]["spacing"])
        for k, name in enumerate(found["id"]):
            arrays |= {f"{name}/{key}": found[key][k] for key in ("mu", "logvar", "targets")}
            arrays |= {f"{name}/patient": np.array(found["patient"][k]), f"{name}/split": np.array(path.stem)}
            if name in dates:
                arrays[f"{name}/t_months"] = np.array(float(dates[name]))
    about = {
        "modalities": config["data"]["modalities"],
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "checkpoint": sha256(run / "checkpoints" / f"{checkpoint}.ckpt"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part, open(part, "wb") as file:
        np.savez(file, provenance=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]  # arrays by name


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
