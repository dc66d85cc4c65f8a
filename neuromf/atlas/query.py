"""Voxel to insight: what the studies and a model know about one point of the brain, in less than two seconds.

region         Harvard-Oxford cortical region (number and name), or none
topics         z of each topic: weights of studies that report the point, against all others (Welch)
latents        latent axes by |d value / dz| of the decoded map at the point
coactivation   peaks of the map of foci that these studies report elsewhere, relative to all studies
novelty        fraction of the brain where the literature reports more foci
nearest        reported foci nearest to the point, with their studies
trend          slope per year of the fraction of studies that report the point, with its standard error
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from neuromf.atlas.rates import Atlas, decoded
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid

RADIUS_MM = 10.0  # studies with a focus this near report the point
N_LISTED = 5
STEP = 0.1  # of latents, in prior standard deviations
ATLAS_FILE = "nimare/resources/atlases/HarvardOxford-cort-maxprob-thr25-2mm.nii.gz"
REGIONS = (
    "Frontal Pole", "Insular Cortex", "Superior Frontal Gyrus", "Middle Frontal Gyrus",
    "Inferior Frontal Gyrus, pars triangularis", "Inferior Frontal Gyrus, pars opercularis", "Precentral Gyrus",
    "Temporal Pole", "Superior Temporal Gyrus, anterior", "Superior Temporal Gyrus, posterior",
    "Middle Temporal Gyrus, anterior", "Middle Temporal Gyrus, posterior", "Middle Temporal Gyrus, temporooccipital",
    "Inferior Temporal Gyrus, anterior", "Inferior Temporal Gyrus, posterior",
    "Inferior Temporal Gyrus, temporooccipital", "Postcentral Gyrus", "Superior Parietal Lobule",
    "Supramarginal Gyrus, anterior", "Supramarginal Gyrus, posterior", "Angular Gyrus",
    "Lateral Occipital Cortex, superior", "Lateral Occipital Cortex, inferior", "Intracalcarine Cortex",
    "Frontal Medial Cortex", "Supplementary Motor Cortex", "Subcallosal Cortex", "Paracingulate Gyrus",
    "Cingulate Gyrus, anterior", "Cingulate Gyrus, posterior", "Precuneus Cortex", "Cuneal Cortex",
    "Frontal Orbital Cortex", "Parahippocampal Gyrus, anterior", "Parahippocampal Gyrus, posterior", "Lingual Gyrus",
    "Temporal Fusiform Cortex, anterior", "Temporal Fusiform Cortex, posterior", "Temporal Occipital Fusiform Cortex",
    "Occipital Fusiform Gyrus", "Frontal Operculum Cortex", "Central Opercular Cortex", "Parietal Operculum Cortex",
    "Planum Polare", "Heschl's Gyrus", "Planum Temporale", "Supracalcarine Cortex", "Occipital Pole",
)  # fmt: skip  # regions 1 to 48 of the atlas


@dataclass(frozen=True, eq=False)
class Index:
    """Studies prepared for queries: build it once."""

    studies: Studies
    grid: BrainGrid
    global_rate: NDArray[np.float64]  # (V,)
    tree: cKDTree

    @staticmethod
    def build(studies: Studies, grid: BrainGrid, global_rate: NDArray) -> "Index":
        """Index of all foci of the studies."""
        return Index(studies, grid, global_rate, cKDTree(studies.points))


def voxel_to_insight(index: Index, point_mm: Sequence[float], atlas: Atlas | None = None) -> dict[str, Any]:
    """Fields of the module docstring for a point (3,) in MNI mm; `latents` is empty without a model.

    Raises:
        ValueError: If the point is outside the brain mask.
    """
    point = np.asarray(point_mm, float)
    voxel = int(index.grid.mask_index(point)[0])
    if voxel < 0:
        raise ValueError(f"the point {point.tolist()} mm is outside the brain mask: give MNI coordinates in the brain")
    near = index.tree.query_ball_point(point, RADIUS_MM)
    reports = np.zeros(len(index.studies), bool)
    reports[index.studies.study_of_focus[near]] = True
    return {
        "point_mm": point.tolist(),
        "n_studies": int(reports.sum()),
        "region": region(point),
        "topics": _topics(index.studies, reports),
        "latents": [] if atlas is None else _latents(atlas, index.grid, voxel),
        "coactivation": _coactivation(index, reports, point),
        "novelty": float((index.global_rate > index.global_rate[voxel]).mean()),
        "nearest": _nearest(index, point),
        "trend": _trend(index.studies.table["year"].to_numpy(float), reports),
    }


@functools.cache
def _atlas_image() -> tuple[NDArray, NDArray]:
    """Region numbers and inverse affine of the Harvard-Oxford atlas.

    Raises:
        ImportError: If NiMARE, whose wheel holds the atlas, is not installed.
    """
    import nibabel as nib

    try:
        image: Any = nib.load(Path(str(metadata.distribution("nimare").locate_file(ATLAS_FILE))))
    except metadata.PackageNotFoundError:
        raise ImportError(
            "the regions are inside NiMARE, which is not installed: pip install 'neuromf[atlas]'"
        ) from None
    return np.asarray(image.dataobj).astype(int), np.linalg.inv(image.affine)


def region(point: NDArray) -> str:
    """Name of the Harvard-Oxford cortical region of a point in mm; "" outside all of them."""
    labels, inverse = _atlas_image()
    i, j, k = np.rint(inverse[:3, :3] @ point + inverse[:3, 3]).astype(int)
    inside = all(0 <= n < size for n, size in zip((i, j, k), labels.shape, strict=True))
    number = labels[i, j, k] if inside else 0
    return REGIONS[number - 1] if number else ""


def _topics(studies: Studies, reports: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Welch z of each topic's weights, largest first; empty if fewer than two studies report the point, or do not."""
    if min(reports.sum(), (~reports).sum()) < 2:
        return []
    groups = (studies.topics[reports].astype(float), studies.topics[~reports].astype(float))
    error = np.sqrt(sum(part.var(0, ddof=1) / len(part) for part in groups))
    z = (groups[0].mean(0) - groups[1].mean(0)) / np.maximum(error, 1e-12)
    return [{"topic": studies.topic_words[k], "z": float(z[k])} for k in np.argsort(-z)]


def _latents(atlas: Atlas, grid: BrainGrid, voxel: int) -> list[dict[str, Any]]:
    """Slope of the decoded value at the voxel on each latent axis at z = 0 (central differences), largest first."""
    steps = STEP * torch.eye(atlas.z_dim)
    up, down = decoded(atlas, grid, torch.cat([steps, -steps]), None)[:, voxel].reshape(2, -1)
    slope = (up - down) / (2 * STEP)
    return [{"axis": int(k), "slope": float(slope[k])} for k in np.argsort(-np.abs(slope))]


def _coactivation(index: Index, reports: NDArray[np.bool_], point: NDArray) -> list[dict[str, Any]]:
    """Voxels where studies that report the point report most foci, relative to all studies, more than 20 mm away."""
    counts = np.bincount(index.grid.mask_index(index.studies.points[reports[index.studies.study_of_focus]]) + 1,
                         minlength=index.grid.n_voxels + 1)[1:]  # fmt: skip
    expected = index.global_rate * max(counts.sum(), 1)
    distant = np.linalg.norm(index.grid.centres_mm - point, axis=1) > 2 * RADIUS_MM
    z = np.where(distant, (counts - expected) / np.sqrt(expected + 1), -np.inf)
    return [{"point_mm": index.grid.centres_mm[k].tolist(), "z": float(z[k])} for k in np.argsort(-z)[:N_LISTED]]


def _nearest(index: Index, point: NDArray) -> list[dict[str, Any]]:
    distance, focus = index.tree.query(point, min(N_LISTED, len(index.studies.points)))
    rows = index.studies.table.iloc[index.studies.study_of_focus[np.atleast_1d(focus)]]
    return [{"distance_mm": float(d), "id": str(row.id), "year": float(row.year), "title": str(row.title)}
            for d, row in zip(np.atleast_1d(distance), rows.itertuples(), strict=True)]  # fmt: skip


def _trend(year: NDArray, reports: NDArray[np.bool_]) -> dict[str, float]:
    """Slope per year, and its standard error, of the fraction of studies that report the point (linear regression)."""
    known = np.isfinite(year)
    x, y = year[known] - year[known].mean(), reports[known].astype(float)
    slope = float(x @ (y - y.mean()) / max(x @ x, 1e-12))
    residual = y - y.mean() - slope * x
    error = float(np.sqrt(residual @ residual / max(len(x) - 2, 1) / max(x @ x, 1e-12)))
    return {"per_year": slope, "standard_error": error, "fraction": float(y.mean())}
