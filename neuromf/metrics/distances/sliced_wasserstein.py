r"""Sliced Wasserstein distance of two feature sets: the mean 1D Wasserstein distance over random projections.

.. math:: \left( \frac{1}{L} \sum_l \int_0^1 |F_l^{-1}(q) - G_l^{-1}(q)|^p \, dq \right)^{1/p}

where F and G are the distributions of the coordinates along L random directions, equal for equal seeds. It has the unit
of the features, depends on all moments, and is 0 only if the distributions agree along all directions. Like the Fréchet
distance it is biased upwards for few volumes. Sets of different sizes are compared exactly.

References:
    Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015), doi:10.1007/s10851-014-0506-3
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuromf.core import parallel
from neuromf.metrics.resampling import bootstrap_indices, by_volume, check_pair, recentred_interval, stack_slices

N_DIRECTIONS = 256


def directions(n_features: int, n: int, seed: int) -> NDArray:
    """Random unit vectors as columns, shape (F, n)."""
    u = np.random.default_rng(seed).standard_normal((n_features, n))
    return u / np.linalg.norm(u, axis=0)


def line_distance(x: NDArray, y: NDArray, p: float) -> NDArray:
    """Wasserstein distance of order p of each pair of columns (N, L) and (M, L), to the power p: shape (L,)."""
    n, m = len(x), len(y)
    steps = np.union1d(
        np.arange(1, n + 1) * m, np.arange(1, m + 1) * n
    )  # quantiles in units of 1 / (n m), as exact integers
    widths = np.diff(steps, prepend=0) / (n * m)
    i, j = (steps - 1) // m, (steps - 1) // n  # order statistic at each quantile
    gaps = np.abs(np.sort(x, axis=0)[i] - np.sort(y, axis=0)[j])
    return widths @ gaps**p


def sliced_wasserstein(
    real: ArrayLike, fake: ArrayLike, *, p: float = 2, n_directions: int = N_DIRECTIONS, seed: int = 0
) -> float:
    """Sliced Wasserstein distance of order p.

    Arguments:
        real: Features of real volumes, shape (N, F), or (N, S, F) with a row per slice.
        fake: Features of generated volumes, shape (M, F) or (M, S, F).
        p: Order, at least 1.
        n_directions: Number of directions.
        seed: Seed of the directions.
    """
    x, y = _projected(real, fake, p, n_directions, seed)
    return float(line_distance(stack_slices(x), stack_slices(y), p).mean() ** (1 / p))


def sliced_interval(
    real: ArrayLike,
    fake: ArrayLike,
    *,
    p: float = 2,
    n_directions: int = N_DIRECTIONS,
    seed: int = 0,
    n_boot: int = 200,
) -> tuple[float, float]:
    """Recentred 95 % bootstrap interval of `sliced_wasserstein`, as `resampling.bootstrap`."""
    x, y = _projected(real, fake, p, n_directions, seed)

    def distance(i: NDArray | slice, j: NDArray | slice) -> float:
        return float(line_distance(stack_slices(x[i]), stack_slices(y[j]), p).mean() ** (1 / p))

    resampled = parallel.map_in_threads(distance, *zip(*bootstrap_indices(len(x), len(y), n_boot, seed), strict=True))
    return recentred_interval(distance(slice(None), slice(None)), resampled)


def _projected(real: ArrayLike, fake: ArrayLike, p: float, n_directions: int, seed: int) -> tuple[NDArray, NDArray]:
    """Coordinates of both sets along the directions: (N, S, L) and (M, S, L)."""
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    check_pair(stack_slices(x), stack_slices(y))
    if p < 1 or n_directions < 1:
        raise ValueError(f"p and n_directions must be at least 1; got {p} and {n_directions}")
    u = directions(x.shape[2], n_directions, seed)
    return x @ u, y @ u
