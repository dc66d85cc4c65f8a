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
from neuromf.metrics.forecast import sign_flip_p
from neuromf.metrics.resampling import percentile_interval
from neuromf.vae.collapse import active_units

VOLUME = "log_volume_mass"
FACTORS = [VOLUME, *LOCATION, "sphericity"]
NOMINAL = {"vol": 1, "loc": 3, "shape": 4}  # parts of an unsupervised latent: arbitrary ranges, for comparison
STEPS = np.linspace(-3, 3, 7)  # of a traversal, in standard deviations
N_TRAVERSED = 8
N_BOOT = 2000


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
    span = parts["vol"] if parts else slice(None)
    bright = bright_log_volumes(train, test, float(np.prod(config["data"]["spacing"])))
    scores |= compare_readings(volume_readings(scans, span, bright))
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


def bright_log_volumes(
    train: tuple[NDArray, NDArray, list[str]], test: tuple[NDArray, NDArray, list[str]], voxel_mm3: float
) -> dict[str, float]:
    """ln(volume of bright t1c voxels + 1 mm^3) by scan id; the threshold fits the masks of training scans best.

    Arguments:
        train, test: t1c images and masks of the mass (N, I, J, K), and ids.
    """
    threshold = fit_threshold(*train[:2])
    counts = [np.log1p(count_mm3(images, threshold, voxel_mm3)) for images, _, _ in (train, test)]
    return dict(zip([*train[2], *test[2]], np.concatenate(counts).tolist(), strict=True))


def volume_readings(
    scans: Mapping[str, Mapping[str, NDArray]], span: slice, bright: Mapping[str, float]
) -> pd.DataFrame:
    """ln V of test scans, and its predictions; columns patient, actual, latent (from z[:, span]), bright.

    Both predictions are ridge regressions fitted on training scans; scans without a mass are left out.
    """
    volume, split = FEATURES.index(VOLUME), unseen_split(scans)
    names = {one: [name for name, scan in scans.items() if scan["split"] == one and scan["present"][volume]]
             for one in ("train", split)}  # fmt: skip
    y, z, b = ({one: np.array([value(name) for name in group]) for one, group in names.items()} for value in (
        lambda name: [scans[name]["features"][volume]],
        lambda name: scans[name]["mu"][span].astype(float),
        lambda name: [bright[name]],
    ))  # fmt: skip
    predicted = {kind: disentanglement.ridge().fit(x["train"], y["train"]).predict(x[split]).ravel()
                 for kind, x in (("latent", z), ("bright", b))}  # fmt: skip
    patients = [str(scans[name]["patient"]) for name in names[split]]
    return pd.DataFrame({"patient": patients, "actual": y[split].ravel(), **predicted})


def compare_readings(table: pd.DataFrame, *, seed: int = 0) -> dict[str, float]:
    """R^2 of ln V of the latent and of bright voxels, and their difference, with 95 % intervals and p.

    Intervals are percentiles of a paired bootstrap over patients, p that of the paired sign-flip permutation test of
    summed squared errors per patient.

    Arguments:
        table: Rows of `volume_readings`.
    """
    y = table["actual"]
    moments = pd.DataFrame({
        "n": 1.0, "y": y, "yy": y**2, "latent": (table["latent"] - y) ** 2, "bright": (table["bright"] - y) ** 2,
    }).groupby(table["patient"]).sum()  # fmt: skip
    draws = np.random.default_rng(seed).multinomial(len(moments), np.full(len(moments), 1 / len(moments)), N_BOOT)
    resampled = _r2_of_sums(draws @ moments.to_numpy())
    latent, bright = _r2_of_sums(moments.sum().to_numpy()[None])[:, 0]
    found = {"r2_vol_probe": latent, "r2_bright_voxels": bright, "volume_gain": latent - bright}
    for name, values in zip([*found], [*resampled, resampled[0] - resampled[1]], strict=True):
        found[f"{name}_low"], found[f"{name}_high"] = percentile_interval(values)
    p = sign_flip_p(moments["latent"].to_numpy(), moments["bright"].to_numpy(), seed=seed)
    return {name: float(value) for name, value in {**found, "volume_gain_p": p}.items()}


def _r2_of_sums(sums: NDArray) -> NDArray:
    """R^2 (2, N) of latent and bright voxels from sums (N, 5) of 1, y, y^2 and both squared errors."""
    total = np.maximum(sums[:, 2] - sums[:, 1] ** 2 / sums[:, 0], 1e-12)
    return 1 - sums[:, 3:].T / total


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
