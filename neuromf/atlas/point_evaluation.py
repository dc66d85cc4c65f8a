"""Reconstruction and generation of the point model on one split, beside closed forms.

Reconstruction: Chamfer distances and the earth mover's distance (Sinkhorn, blur 2 mm) to the original foci.

Generation: nearest-neighbour two-sample test under the unsquared Chamfer distance. `accuracy` is the fraction of sets
whose nearest other set is of the same kind, .5 if both kinds have one distribution. It is the mean of the accuracies of
real and of generated sets, and these can differ: sets without any structure are near to everything, so both kinds have
them as neighbours, and their mean is .5 although the distributions differ. `deviation` is therefore the mean distance
of both accuracies from .5; 0 is best.

Reference:
    PointFlow: 3D point cloud generation with continuous normalizing flows (Yang et al., 2019), arXiv:1906.12320
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuromf.atlas.guards import statement
from neuromf.atlas.point_baselines import (
    draw_global,
    fit_codebook,
    fit_ordered_pca,
    own_centroids,
    training_sets,
)
from neuromf.atlas.point_sets import point_sets
from neuromf.atlas.point_vae import PointAtlas, load_points
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import write_json
from neuromf.data.brain_grid import brain_grid
from neuromf.metrics.distances.point_sets import ACCURATE, chamfer, sinkhorn
from neuromf.metrics.resampling import mean_interval

AT_ONCE = 512
N_BOOT = 500


def evaluate_points(
    run: str | Path, studies: str | Path, out: str | Path, *, split: str = "test", n_sets: int = 400, seed: int = 0
) -> dict:
    """Write and return the rows of reconstruction and generation of a trained point model.

    Arguments:
        run: Run folder of the model.
        studies: Folder of studies.
        out: JSON file.
        split: Split whose studies are evaluated; baselines are fitted to the training studies.
        n_sets: Sets of each kind in the two-sample tests.
        seed: Seed of point sets, baselines and samples.
    """
    everything, atlas = read_studies(studies), load_points(run)
    rows = everything.rows(split)
    evaluated, n = everything.take(rows), atlas.model.n_points
    some = everything.take(np.random.default_rng(seed).permutation(rows)[:n_sets])
    train = training_sets(everything, n, seed)
    result = {
        "scale": everything.scale, "statement": statement(everything.scale), "manifest": atlas.card["manifest"],
        "split": split, "n": len(rows), "seed": seed,
        "reconstruction": reconstruction_rows(atlas, evaluated, train, seed),
        "generation": generation_rows(atlas, some, everything, seed),
    }  # fmt: skip
    write_json(out, result)
    return result


def reconstruction_rows(atlas: PointAtlas, studies: Studies, train: NDArray, seed: int = 0) -> list[dict]:
    """One row per method with mean distances over studies and the interval of the difference to the model."""
    points, mask = point_sets(studies, atlas.model.n_points, seed)
    decoded = {
        "model": atlas.reconstruct(studies, seed),
        "pca": fit_ordered_pca(train, seed=seed).reconstruct(points),
        "codebook": fit_codebook(train, seed=seed).reconstruct(points, mask),
        "own_centroids": own_centroids(points, mask, seed=seed),
        "one_set": np.broadcast_to(fit_codebook(train, train.shape[1], seed).centres.astype(np.float32), points.shape),
    }
    numbers = {"model": atlas.model.z_dim, "pca": 32, "codebook": 32, "own_centroids": 30, "one_set": 0}
    errors = {name: point_errors(points, mask, sets) for name, sets in decoded.items()}
    rows = []
    for name, values in errors.items():
        row: dict = {"method": name, "numbers": numbers[name], **{key: float(v.mean()) for key, v in values.items()}}
        for key in ("chamfer_mm", "emd_mm"):
            row[f"{key}_minus_model"] = list(mean_interval(values[key] - errors["model"][key], N_BOOT, seed))
        rows.append(row)
    return rows


def point_errors(points: NDArray, mask: NDArray, decoded: NDArray) -> dict[str, NDArray]:
    """Errors of decoded sets (B, M, 3) per study: chamfer_mm2, chamfer_mm and emd_mm, each (B,)."""
    parts = []
    for k in range(0, len(points), AT_ONCE):
        rows = slice(k, k + AT_ONCE)
        a, real, b = (torch.from_numpy(np.ascontiguousarray(one[rows])) for one in (points, mask, decoded))
        parts.append((chamfer(a, b, real), chamfer(a, b, real, squared=False), sinkhorn(a, b, real, scaling=ACCURATE)))
    names = ("chamfer_mm2", "chamfer_mm", "emd_mm")
    return {name: torch.cat(column).numpy() for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def generation_rows(atlas: PointAtlas, studies: Studies, everything: Studies, seed: int = 0) -> list[dict]:
    """Two-sample tests of real sets against samples of the model, the global density, and training studies.

    `count` 30: all points of generated sets. `count` foci: as many points, at random, as the study has foci.
    """
    n = atlas.model.n_points
    real, mask = point_sets(studies, n, seed)
    train = everything.take(everything.rows("train"))
    others = train.take(np.random.default_rng(seed + 1).permutation(len(train))[: len(studies)])
    drawn = {
        "model": atlas.sample(studies, seed),
        "global_kde": draw_global(train, brain_grid("6mm"), mask.shape, seed),
    }
    rows = []
    for name, sets in drawn.items():
        for count, counted in (("30", np.ones_like(mask)), ("foci", mask)):
            rows.append({"sets": name, "count": count, **nearest_neighbour_test(real, mask, sets, counted)})
    return [
        *rows,
        {"sets": "train", "count": "foci", **nearest_neighbour_test(real, mask, *point_sets(others, n, seed))},
    ]


def nearest_neighbour_test(real: NDArray, real_mask: NDArray, fake: NDArray, fake_mask: NDArray) -> dict[str, float]:
    """Leave-one-out accuracy of the nearest neighbour among real and generated sets (B, n, 3), and its parts."""
    sets, mask = np.concatenate([real, fake]), np.concatenate([real_mask, fake_mask])
    label = np.repeat([0, 1], [len(real), len(fake)])
    distances = chamfer_matrix(torch.from_numpy(sets), torch.from_numpy(mask))
    same = label[distances.fill_diagonal_(torch.inf).argmin(1).numpy()] == label
    parts = same[label == 0].mean(), same[label == 1].mean()
    deviation = np.abs(np.array(parts) - 0.5).mean()
    return {"accuracy": float(np.mean(parts)), "accuracy_real": float(parts[0]), "accuracy_generated": float(parts[1]),
            "deviation": float(deviation), "n": len(real)}  # fmt: skip


def chamfer_matrix(sets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Unsquared Chamfer distance of every pair of sets, (B, B), in mm."""
    rows = [chamfer(one[None], sets, real[None].expand_as(mask), mask, squared=False)
            for one, real in zip(sets, mask, strict=True)]  # fmt: skip
    return torch.stack(rows)
