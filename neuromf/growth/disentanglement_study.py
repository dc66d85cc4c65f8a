"""Disentanglement of a trained latent: scores on test patients, whose anatomies no training patient has; traversals.

Probes are fitted on training scans and evaluated on test scans. Beside the volume that the latent predicts stands the
prediction from a count of bright t1c voxels: a latent that does not beat it has no use as a measurement.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from neuromf.core.files import atomic_write, write_json
from neuromf.data.semantic_features import FEATURES, LOCATION, SHAPE
from neuromf.growth.callbacks import write_table
from neuromf.growth.latents import load_module, read_config, read_latents, read_partition
from neuromf.growth.mass_mask import count_mm3, fit_threshold, load_images, t1c_decoder
from neuromf.growth.module import VAELitModule
from neuromf.growth.partition import RESIDUAL, Partition
from neuromf.metrics import disentanglement
from neuromf.metrics.dependence import distance_correlations, largest_correlation
from neuromf.vae.collapse import active_units

VOLUME = "log_volume_mass"
FACTORS = [VOLUME, *LOCATION, "sphericity"]
NOMINAL = {"vol": 1, "loc": 3, "shape": 4}  # parts of an unsupervised latent: arbitrary ranges, for comparison
STEPS = np.linspace(-3, 3, 7)  # of a traversal, in standard deviations
N_TRAVERSED = 8


def evaluate(*, folder: Path, latents: Path, out: Path) -> dict[str, Any]:
    """Write the scores of a run as JSON, and its cross-probe matrix and traversals beside them as npz.

    Arguments:
        folder: Run directory.
        latents: Store of latents of the run.
        out: JSON file.
    """
    config = read_config(folder)
    scans, parts = read_latents(latents, config["data"]["modalities"]), read_partition(latents)
    scores, arrays = score_latents(scans, parts)
    train, test = (load_images(folder, split, config) for split in ("train", unseen_split(scans)))
    scores["r2_bright_voxels"] = bright_voxel_r2(*train[:2], *test[:2], float(np.prod(config["data"]["spacing"])))
    found, moved = traverse(load_module(folder), scans, parts, train[1], config)
    scores |= found
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, scores)
    with atomic_write(out.with_suffix(".npz")) as part, open(part, "wb") as file:
        np.savez(file, **arrays, **moved)  # type: ignore[arg-type]  # arrays by name
    return scores


def merge_scores(tables: Sequence[Path], out: Path) -> pd.DataFrame:
    """Table of experiments and random seeds, one row per JSON file {experiment}[-{seed}].json."""
    rows = []
    for path in tables:
        experiment, _, seed = path.stem.partition("-")
        scores = json.loads(path.read_text())
        rows.append({"experiment": experiment, "seed": int(seed or 0)} | {
            name: value for name, value in scores.items() if not isinstance(value, dict)})  # fmt: skip
    table = pd.DataFrame(rows).sort_values(["experiment", "seed"])
    write_table(out, table)
    return table


def summarise(table: pd.DataFrame, out: Path) -> None:
    """Write mean and standard deviation over seeds of every score by experiment."""
    scores = table.select_dtypes("number").drop(columns="seed")
    numbers = scores.groupby(table["experiment"]).agg(["mean", "std", "count"])
    numbers.columns = [f"{name}_{kind}" for name, kind in numbers.columns]
    write_table(out, numbers.reset_index())


# --- scores ------------------------------------------------------------------------------------------


def score_latents(
    scans: Mapping[str, Mapping[str, NDArray]], partition: Partition | None
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Scores of a store, and the cross-probe matrix with the names of its parts and factors."""
    chosen = [FEATURES.index(name) for name in [*FACTORS, *SHAPE]]
    train, test = (columns(scans, split, chosen) for split in ("train", unseen_split(scans)))
    z, factors = test["mu"], test["features"][:, : len(FACTORS)]
    parts = partition or Partition.of_widths(NOMINAL, z.shape[1])
    spans = {**parts, "all": slice(None)}
    matrix = disentanglement.cross_probe_matrix(
        train["mu"], train["features"], spans, train["patient"], test=(z, test["features"])
    )
    rows = dict(
        zip(spans, matrix if partition else [matrix[-1]] * len(spans), strict=True)
    )  # an unsupervised latent is
    tensor = torch.tensor(z)  # probed as a whole
    residual = tensor[:, parts[RESIDUAL]] if partition else tensor
    scores: dict[str, Any] = {
        "r2_vol": float(rows["vol"][0]),
        "r2_loc": float(rows["loc"][1:4].mean()),
        "r2_shape": float(rows["shape"][len(FACTORS) :].mean()),
        "r2_vol_all": float(matrix[-1, 0]),
        "max_correlation": largest_correlation(tensor, parts),
        "au_fraction": active_units(residual) / residual.shape[1],
    }
    names = ("r2_vol", "r2_loc", "r2_shape", "max_correlation", "au_fraction")
    readiness = disentanglement.ode_readiness(**{name: scores[name] for name in names})
    information, entropies = disentanglement.mutual_information(z, factors)
    scores |= disentanglement.dci(z, factors, test["patient"]) | {
        "ode_readiness": readiness,
        "grade": disentanglement.grade(readiness),
        "mig": disentanglement.mig(information, entropies),
        "modularity": disentanglement.modularity(information),
        "sap": disentanglement.sap(z, factors),
        "effective_rank": disentanglement.effective_rank(z),
        "n_test_scans": len(z),
        "n_test_patients": len(set(test["patient"])),
        "dcor": {f"{a}-{b}": float(value) for (a, b), value in distance_correlations(tensor, parts).items()},
    }
    arrays = {"matrix": matrix[:, : len(FACTORS)], "parts": np.array([*spans]), "factors": np.array(FACTORS)}
    return scores, arrays | {"named": np.array(partition is not None)}


def unseen_split(scans: Mapping[str, Mapping[str, NDArray]]) -> str:
    """ "test", or "val" if there are no test patients."""
    return "test" if any(scan["split"] == "test" for scan in scans.values()) else "val"


def columns(scans: Mapping[str, Mapping[str, NDArray]], split: str, chosen: Sequence[int]) -> dict[str, Any]:
    """mu (N, d), chosen features (N, K) and patients of the scans of a split with a tumour."""
    rows = [scan for scan in scans.values() if scan["split"] == split and scan["present"][chosen].all()]
    return {
        "mu": np.stack([row["mu"] for row in rows]).astype(float),
        "features": np.stack([row["features"][chosen] for row in rows]),
        "patient": [str(row["patient"]) for row in rows],
    }


# --- images ------------------------------------------------------------------------------------------


def bright_voxel_r2(
    images: NDArray, masks: NDArray, test_images: NDArray, test_masks: NDArray, voxel_mm3: float
) -> float:
    """R^2 of ln V on test scans of a line in ln(bright volume + 1), fitted with its threshold on training scans."""
    threshold = fit_threshold(images, masks)
    count, test_count = (np.log1p(count_mm3(one, threshold, voxel_mm3))[:, None] for one in (images, test_images))
    volume, test_volume = (np.log1p(count_mm3(one, 0.5, voxel_mm3))[:, None] for one in (masks, test_masks))
    return float(disentanglement.probe_r2(count, volume, test_count, test_volume)[0])


# --- traversals --------------------------------------------------------------------------------------


def volume_direction(z: NDArray, log_volume: NDArray, span: slice) -> NDArray:
    """Change of z (d,) per standard deviation of the log-volume that a ridge regression on z[:, span] predicts."""
    model = disentanglement.ridge().fit(z[:, span], log_volume)
    weights = model[-1].coef_ / model[0].scale_
    spread = np.atleast_2d(np.cov(z[:, span].T)) @ weights
    direction = np.zeros(z.shape[1])
    direction[span] = spread / max(float(np.sqrt(weights @ spread)), 1e-12)
    return direction


def traverse(
    module: VAELitModule,
    scans: Mapping[str, Mapping[str, NDArray]],
    partition: Partition | None,
    masks: NDArray,
    config: Mapping[str, Any],
) -> tuple[dict[str, float], dict[str, NDArray]]:
    """Rank correlation of the measured volume with the step along the volume direction, volumes, and slices of t1c.

    The volume is that of decoded t1c above the threshold that fits decoded training scans and their `masks` best.
    """
    volume = [FEATURES.index(VOLUME)]
    known, test = (columns(scans, split, volume) for split in ("train", unseen_split(scans)))
    span = partition["vol"] if partition else slice(None)
    direction = volume_direction(known["mu"], known["features"][:, 0], span)
    decode, voxel = t1c_decoder(module, config), float(np.prod(config["data"]["spacing"]))
    ids = [name for name, scan in scans.items() if scan["split"] == "train"]
    threshold = fit_threshold(decode(np.stack([scans[name]["mu"] for name in ids])), masks)
    first = [test["patient"].index(one) for one in sorted(set(test["patient"]))][:N_TRAVERSED]
    steps = [decode(test["mu"][first] + step * direction) for step in STEPS]
    volumes = np.stack([count_mm3(one, threshold, voxel) for one in steps], 1)
    ranks = [spearmanr(STEPS, row).statistic if np.ptp(row) else 0.0 for row in volumes]
    shown = int(np.argmax(np.ptp(volumes, axis=1)))
    change = steps[-1][shown] - steps[0][shown]
    level = int(np.abs(change).sum((0, 1)).argmax())
    slices = np.stack([one[shown, :, :, level] for one in steps])
    return {"traversal_spearman": float(np.mean(ranks))}, {"steps": STEPS, "volumes": volumes, "slices": slices}
