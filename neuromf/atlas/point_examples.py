"""Foci of some studies with their reconstruction, for pages and figures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuromf.atlas.point_evaluation import point_errors
from neuromf.atlas.point_sets import point_sets
from neuromf.atlas.point_vae import load_points
from neuromf.atlas.studies import read_studies


@dataclass(frozen=True)
class Example:
    """One study and its reconstruction."""

    title: str
    year: int
    n_foci: int
    original: NDArray[np.float32]  # (n, 3) in mm: foci that the model read
    reconstructed: NDArray[np.float32]  # (n_points, 3)
    chamfer_mm: float  # unsquared, sum of both directions


def examples(
    run: Path, studies: Path, *, split: str = "test", n: int = 5, seed: int = 0
) -> tuple[list[Example], str, int]:
    """n random studies of a split with 10 or more foci, the scale of the data, and the latent dimensions."""
    everything, atlas = read_studies(studies), load_points(run)
    rows = everything.rows(split)
    many = rows[np.diff(everything.starts)[rows] >= 10]
    some = everything.take(np.random.default_rng(seed).permutation(many)[:n])
    points, mask = point_sets(some, atlas.model.n_points, seed)
    decoded = atlas.reconstruct(some, seed)
    errors = point_errors(points, mask, decoded)["chamfer_mm"]
    table = some.table
    found = [Example(str(table["title"][k]), int(table["year"][k]), int(table["n_foci"][k]), points[k][mask[k]],
                     decoded[k], float(errors[k])) for k in range(len(some))]  # fmt: skip
    return found, everything.scale, atlas.model.z_dim
