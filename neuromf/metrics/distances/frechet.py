r"""Fréchet distance between two sets of features, and intervals of it.

Features have shape (N, F): one row per volume. Each set is summarised by its mean and covariance
(normalised by N - 1), and the distance between the two Gaussians is

.. math:: |m_1 - m_2|^2 + \mathrm{tr}\, S_1 + \mathrm{tr}\, S_2 - 2\, \mathrm{tr} (S_1 S_2)^{1/2}

which has the squared unit of the features; FID is this distance. With S = AᵀA and S' = BᵀB the last
trace is the sum of the singular values of ABᵀ, so no matrix square root is needed and there may be
fewer rows than features. Few rows bias the distance upwards: compare only distances of equally many
rows (`at_equal_n`).

Features of slices have shape (N, S, F): each slice is a row; resampling draws volumes with all their slices.

References:
    GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), arXiv:1706.08500
    The Fréchet distance between multivariate normal distributions (Dowson & Landau, 1982)
    Effectively Unbiased FID and Inception Score (Chong & Forsyth, 2020), arXiv:1911.07023
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh

from neuromf.metrics.resampling import (
    bootstrap,
    bootstrap_indices,
    by_volume,
    check_pair,
    recentred_interval,
    row_counts,
    stack_slices,
)

LARGE = 256  # side of a matrix above which eigenvalues are tried before singular values
TOLERANCE = 1e-4  # largest relative error of a distance due to rounded eigenvalues


def covariance_factor(x: NDArray) -> NDArray:
    """Matrix A of shape (min(N, F), F) such that AᵀA is the covariance of the rows of x."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred  # type: ignore[return-value]  # mode r returns R only


def minus_twice_trace(cross: NDArray, total: float) -> float:
    """`total` minus twice the sum of the singular values of `cross`, at least 0.

    The eigenvalues of a large matrix times its transpose are three times faster than its singular values, but the
    square roots of those near 0 are rounding errors. They are used only if the distance is large compared with these.
    """
    if min(cross.shape) > LARGE:
        cross = cross if cross.shape[0] <= cross.shape[1] else cross.T
        roots = np.sqrt(np.clip(eigvalsh(cross @ cross.T, driver="evr", check_finite=False), 0, None))
        value = total - 2 * roots.sum()
        if len(roots) * np.sqrt(np.finfo(float).eps) * roots[-1] < TOLERANCE * value:
            return float(value)
    return float(max(total - 2 * np.linalg.svd(cross, compute_uv=False).sum(), 0.0))  # equal sets may round to -1e-15


def frechet_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """Fréchet distance between the Gaussians of two feature sets, 0 if they are equal.

    Arguments:
        real: Features of real volumes, shape (N, F), N >= 2.
        fake: Features of generated volumes, shape (M, F), M >= 2.

    Raises:
        ValueError: If the columns differ, a set has fewer than two rows, or a value is not finite.
    """
    x, y = check_pair(real, fake)
    a, b = covariance_factor(x), covariance_factor(y)
    means = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    return minus_twice_trace(a @ b.T, means + np.sum(a**2) + np.sum(b**2))


def frechet_interval(real: ArrayLike, fake: ArrayLike, n_boot: int = 200, seed: int = 0) -> tuple[float, float]:
    """The interval of `bootstrap` for `frechet_distance`, faster if there are more features than rows.

    Products of rows are computed once; a resample weights them by the number of times that each row occurs.
    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    slices, sizes = (x.shape[1], y.shape[1]), (len(x), len(y))
    pairs = bootstrap_indices(len(x), len(y), n_boot, seed)
    x, y = check_pair(stack_slices(x), stack_slices(y))
    if min(len(x), len(y)) > x.shape[1]:
        return bootstrap(frechet_distance, real, fake, n_boot, seed)
    centre = x.mean(axis=0)  # products of centred rows lose fewer digits
    x, y = x - centre, y - centre
    cross = x @ y.T
    resampled = [_weighted_distance(x, y, cross, *row_counts(pair, sizes, slices)) for pair in pairs]
    return recentred_interval(frechet_distance(x, y), resampled)


def _weighted_distance(x: NDArray, y: NDArray, cross: NDArray, n_x: NDArray, n_y: NDArray) -> float:
    """Fréchet distance of rows x with multiplicity n_x and rows y with multiplicity n_y; cross is xyᵀ."""
    i, j = np.flatnonzero(n_x), np.flatnonzero(n_y)
    p, q = n_x[i] / n_x.sum(), n_y[j] / n_y.sum()
    x, y, cross = x[i], y[j], cross[np.ix_(i, j)]
    x_mean, y_mean = p @ x, q @ y
    cross = cross - (x @ y_mean)[:, None] - x_mean @ y.T + x_mean @ y_mean
    bessel = n_x.sum() / (n_x.sum() - 1), n_y.sum() / (n_y.sum() - 1)
    traces = bessel[0] * (p @ np.sum((x - x_mean) ** 2, axis=1)) + bessel[1] * (q @ np.sum((y - y_mean) ** 2, axis=1))
    cross = np.sqrt(bessel[0] * bessel[1] * np.outer(p, q)) * cross
    return minus_twice_trace(cross, np.sum((x_mean - y_mean) ** 2) + traces)
