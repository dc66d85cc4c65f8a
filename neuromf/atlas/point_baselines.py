"""Closed forms beside the point model: reconstructions of foci from 32 numbers or fewer, and draws from one density."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from neuromf.atlas.kernel_maps import FWHM_OVER_SIGMA
from neuromf.atlas.point_sets import point_sets
from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid

N_NUMBERS = 32
ROUNDS = 2  # of assignment and mean, for the template
KDE_FWHM_MM = 9.0


@dataclass(frozen=True)
class OrderedPCA:
    """PCA of point sets in one order: each point is assigned to its own point of a template."""

    template: NDArray  # (n, 3)
    pca: PCA

    def reconstruct(self, points: NDArray) -> NDArray:
        """Sets (B, n, 3) from their principal components."""
        flat = assign(points, self.template).reshape(len(points), -1)
        return self.pca.inverse_transform(self.pca.transform(flat)).reshape(points.shape).astype(np.float32)


def assign(points: NDArray, template: NDArray) -> NDArray:
    """Points (B, n, 3) of each set in the order of a template (n, 3), with the smallest sum of squared distances."""
    order = [linear_sum_assignment(cdist(template, one, "sqeuclidean"))[1] for one in points]
    return np.take_along_axis(points, np.array(order)[..., None], axis=1)


def fit_ordered_pca(points: NDArray, n_numbers: int = N_NUMBERS, seed: int = 0) -> OrderedPCA:
    """PCA with `n_numbers` components of training sets (B, n, 3)."""
    template = _centres(points.reshape(-1, 3), points.shape[1], seed)
    for _ in range(ROUNDS):
        template = assign(points, template).mean(0)
    flat = assign(points, template).reshape(len(points), -1)
    return OrderedPCA(template, PCA(n_numbers, random_state=seed).fit(flat))


@dataclass(frozen=True)
class Codebook:
    """Fractions of a study's foci in the cells of k-means centres; decoded as copies of the centres."""

    centres: NDArray  # (n_numbers, 3)

    def reconstruct(self, points: NDArray, mask: NDArray) -> NDArray:
        """Sets (B, n, 3) from the fractions of originals in the cells."""
        return np.stack([self._decode(one[real], len(one)) for one, real in zip(points, mask, strict=True)])

    def _decode(self, foci: NDArray, n: int) -> NDArray:
        cells = cdist(foci, self.centres).argmin(1)
        wanted = np.bincount(cells, minlength=len(self.centres)) * n / len(foci)
        counts = np.floor(wanted).astype(int)
        counts[np.argsort(counts - wanted, kind="stable")[: n - counts.sum()]] += 1  # largest remainders
        return np.repeat(self.centres, counts, axis=0).astype(np.float32)


def fit_codebook(points: NDArray, n_numbers: int = N_NUMBERS, seed: int = 0) -> Codebook:
    """Codebook of training sets (B, n, 3)."""
    return Codebook(_centres(points.reshape(-1, 3), n_numbers, seed))


def _centres(points: NDArray, n: int, seed: int) -> NDArray:
    some = np.random.default_rng(seed).permutation(len(points))[:20_000]
    return KMeans(n, n_init=1, max_iter=50, random_state=seed).fit(points[some]).cluster_centers_


def own_centroids(points: NDArray, mask: NDArray, n_numbers: int = 30, seed: int = 0) -> NDArray:
    """Centroids (B, n_numbers / 3, 3) of a study's own foci by k-means: a code of single studies, fitted to no others.

    Studies with fewer foci repeat them.
    """
    n, sets = n_numbers // 3, []
    for one, real in zip(points, mask, strict=True):
        foci = np.unique(one[real], axis=0)
        few = len(foci) <= n
        found = foci if few else KMeans(n, n_init=1, random_state=seed).fit(foci).cluster_centers_
        sets.append(found[np.arange(n) % len(found)])
    return np.stack(sets).astype(np.float32)


def draw_global(train: Studies, grid: BrainGrid, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Sets (B, n, 3) of independent draws from the kernel density of all training foci, inside the brain mask."""
    random = np.random.default_rng([seed, 1])
    kept: list[NDArray] = []
    while sum(map(len, kept)) < shape[0] * shape[1]:
        centres = train.points[random.integers(len(train.points), size=shape[0] * shape[1])]
        drawn = centres + KDE_FWHM_MM / FWHM_OVER_SIGMA * random.standard_normal(centres.shape)
        kept.append(drawn[grid.in_mask(drawn)])
    return np.concatenate(kept)[: shape[0] * shape[1]].reshape(*shape, 3).astype(np.float32)


def training_sets(studies: Studies, n: int, seed: int = 0) -> NDArray[np.float32]:
    """Point sets (n_train, n, 3) of the training studies, with copies where foci lack."""
    return point_sets(studies.take(studies.rows("train")), n, seed)[0]
