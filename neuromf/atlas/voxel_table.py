"""Voxel to insight for all voxels of a grid at once, as arrays that a page can embed.

The fields are those of `query.voxel_to_insight`; studies report a voxel if they have a focus within 10 mm of its
centre. Lists hold the N_TOP first entries.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from neuromf.atlas.query import N_LISTED, RADIUS_MM, REGIONS, STEP, region
from neuromf.atlas.rates import Atlas, decoded
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid

N_TOP = 3
AT_ONCE = 1000  # voxels


def voxel_table(
    studies: Studies, grid: BrainGrid, global_rate: NDArray, atlas: Atlas | None = None
) -> dict[str, NDArray]:
    """Arrays with one row per voxel of the mask (V, ...).

    Arguments:
        global_rate: Rate of all foci, shape (V,).
        atlas: Volume model; without one, `latents` has no columns.

    Returns:
        region: number in REGIONS + 1, 0 for none. n_studies: studies that report the voxel. topics, topic_z: the
        N_LISTED topics of largest Welch z. latents: axes of largest |slope|. coactivation: voxels reported most besides
        (-1 without studies). nearest: rows of the studies of the nearest foci. trend: slope per year of the fraction of
        studies, and its standard error. novelty: fraction of the brain with more foci.
    """
    reports = reporting(studies, grid)
    names = {name: k + 1 for k, name in enumerate(REGIONS)} | {"": 0}
    topics, z = topic_scores(reports, studies.topics)
    _, focus = cKDTree(studies.points).query(grid.centres_mm, N_TOP)
    return {
        "region": np.array([names[region(point)] for point in grid.centres_mm]),
        "n_studies": np.asarray(reports.sum(0)).ravel().astype(np.int64),
        "topics": topics,
        "topic_z": z,
        "latents": np.zeros((grid.n_voxels, 0), int) if atlas is None else steepest(atlas, grid),
        "coactivation": coactivation(reports, studies, grid, global_rate),
        "nearest": studies.study_of_focus[focus],
        "trend": trends(reports, studies.table["year"].to_numpy(float)),
        "novelty": 1 - (np.searchsorted(np.sort(global_rate), global_rate, side="right") / len(global_rate)),
    }


def reporting(studies: Studies, grid: BrainGrid) -> sparse.csr_matrix:
    """1.0 where a study has a focus within RADIUS_MM of the centre of a voxel, shape (n_studies, V)."""
    near = cKDTree(grid.centres_mm).query_ball_point(studies.points, RADIUS_MM)
    lengths = np.array([len(one) for one in near])
    columns = np.concatenate([np.asarray(one, np.int64) for one in near])
    rows = np.repeat(studies.study_of_focus, lengths)
    found = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(studies), grid.n_voxels))
    found.data[:] = 1
    return found


def topic_scores(reports: sparse.csr_matrix, topics: NDArray) -> tuple[NDArray, NDArray]:
    """Topics of largest Welch z of each voxel, and these z, (V, N_LISTED) each; z is NaN for fewer than two studies."""
    weights = topics.astype(np.float64)
    n = np.asarray(reports.sum(0), np.float64).ravel()[:, None]
    near, squares = reports.T @ weights, reports.T @ weights**2
    groups = ((n, near, squares), (len(weights) - n, weights.sum(0) - near, (weights**2).sum(0) - squares))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [total / count for count, total, _ in groups]
        errors = [(square - total**2 / count) / (count - 1) / count for count, total, square in groups]
        z = (means[0] - means[1]) / np.sqrt(np.maximum(sum(errors), 1e-24))
    z[np.minimum(n, len(weights) - n).ravel() < 2] = np.nan
    order = np.argsort(-np.nan_to_num(z, nan=-np.inf), axis=1, kind="stable")[:, :N_LISTED]
    return order, np.take_along_axis(z, order, 1)


def steepest(atlas: Atlas, grid: BrainGrid) -> NDArray[np.int64]:
    """Latent axes of largest |d value / dz| at z = 0 of each voxel, (V, N_TOP)."""
    steps = STEP * torch.eye(atlas.z_dim)
    up, down = decoded(atlas, grid, torch.cat([steps, -steps]), None).reshape(2, atlas.z_dim, -1)
    return np.argsort(-np.abs(up - down).T, axis=1, kind="stable")[:, :N_TOP]


def coactivation(
    reports: sparse.csr_matrix, studies: Studies, grid: BrainGrid, global_rate: NDArray
) -> NDArray[np.int64]:
    """Voxels (V, N_TOP) more than 20 mm away where studies that report a voxel have most foci, relative to all."""
    voxels = grid.mask_index(studies.points)
    inside = voxels >= 0
    where = (studies.study_of_focus[inside], voxels[inside])
    counts = sparse.csr_matrix((np.ones(inside.sum(), np.float32), where), reports.shape)
    found = np.full((grid.n_voxels, N_TOP), -1)
    places, rate = grid.centres_mm.astype(np.float32), global_rate.astype(np.float32)
    squares = (places**2).sum(1)
    for start in range(0, grid.n_voxels, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        near = (reports[:, some].T @ counts).toarray()
        expected = near.sum(1, keepdims=True) * rate
        z = (near - expected) / np.sqrt(expected + 1)
        distant = squares[some, None] + squares - 2 * places[some] @ places.T > (2 * RADIUS_MM) ** 2
        z[~distant] = -np.inf
        top = np.argpartition(-z, N_TOP, axis=1)[:, :N_TOP]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(z, top, 1), axis=1), 1)
        found[some] = np.where(near.sum(1, keepdims=True) > 0, top, -1)
    return found


def trends(reports: sparse.csr_matrix, year: NDArray) -> NDArray[np.float64]:
    """Slope per year of the fraction of studies that report each voxel, and its standard error, (V, 2)."""
    known = np.isfinite(year)
    x, some = year[known] - year[known].mean(), reports[known]
    n, spread = len(x), max(float(x @ x), 1e-12)
    fraction = np.asarray(some.mean(0), np.float64).ravel()
    slope = (some.T @ x) / spread
    residual = n * fraction * (1 - fraction) - slope**2 * spread  # sum of squares of 0/1 values about the line
    return np.stack([slope, np.sqrt(np.maximum(residual, 0) / max(n - 2, 1) / spread)], 1)
