r"""Fréchet distance between two sets of features, the noise under it, and plain PCA features.

Features have shape (N, F): one row per volume. Each set is summed up by its mean and covariance
(with N - 1), and the distance between the two Gaussians is

.. math:: |m_1 - m_2|^2 + \mathrm{tr}\, S_1 + \mathrm{tr}\, S_2 - 2\, \mathrm{tr} (S_1 S_2)^{1/2}

which has the features' unit squared; this is the number reported as FID. With S = AᵀA and
S' = BᵀB the last trace is the sum of the singular values of ABᵀ, so no matrix square root is
taken and fewer rows than features are no obstacle. Few rows still bias the distance upwards:
read it beside ``halves_distance`` and compare only distances made from equally many rows.

References:
    GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), arXiv:1706.08500
    The Fréchet distance between multivariate normal distributions (Dowson & Landau, 1982)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_features(features: ArrayLike, name: str, n_rows: int = 2) -> NDArray:
    """Features as a finite (N, F) float64 array with at least n_rows rows."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] < n_rows or x.shape[1] < 1:
        raise ValueError(f"{name} must have shape (N, F), one row per volume and at least {n_rows}; got {x.shape}")
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(
            f"{name} must be finite; got NaN or infinity in {rows} of {len(x)} rows: look at the volumes they came from"
        )
    return x


def as_pair(real: ArrayLike, fake: ArrayLike) -> tuple[NDArray, NDArray]:
    """Two sets of features that have the same columns."""
    x, y = as_features(real, "real"), as_features(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"real and fake must have the same number of features; got {x.shape[1]} and {y.shape[1]}: "
            "compute both with one network and one projection"
        )
    return x, y


def factor(x: NDArray) -> NDArray:
    """A matrix A of shape (min(N, F), F) with AᵀA the covariance of the rows of x."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred


def frechet_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """Fréchet distance between the Gaussians of two sets of features (0 when they agree).

    Arguments:
        real: Features of real volumes, with shape (N, F), N >= 2.
        fake: Features of generated volumes, with shape (M, F), M >= 2.

    Raises:
        ValueError: If the columns differ, a set has fewer than two rows, or a value is not finite.
    """
    x, y = as_pair(real, fake)
    a, b = factor(x), factor(y)
    means = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    traces = np.sum(a**2) + np.sum(b**2)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(means + traces - 2 * overlap, 0.0))  # equal sets may round to -1e-15


def halves_distance(real: ArrayLike, seed: int = 0) -> float:
    """Fréchet distance between two random halves of one set: what the sample size alone costs.

    Halves have N // 2 rows, so this is the floor of distances made from that many rows on both
    sides. With an odd N one row is left out.

    Arguments:
        real: Features of real volumes, with shape (N, F), N >= 4.
        seed: Seed of the split.
    """
    x = as_features(real, "real", n_rows=4)
    order = np.random.default_rng(seed).permutation(len(x))
    half = len(x) // 2
    return frechet_distance(x[order[:half]], x[order[half : 2 * half]])


def bootstrap(
    fn: Callable[[NDArray, NDArray], float],
    real: ArrayLike,
    fake: ArrayLike,
    n_boot: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of fn when the rows of both sets are drawn again.

    Repeated rows look like fewer volumes, so the interval of a Fréchet distance leans upwards as
    the distance itself does: it says how wide, not where.

    Arguments:
        fn: A statistic of two sets of features, for instance ``frechet_distance``.
        real: Features of real volumes, with shape (N, F).
        fake: Features of generated volumes, with shape (M, F).
        n_boot: Number of redraws.
        seed: Seed of the redraws.

    Returns:
        The 2.5 and 97.5 percentiles of fn.
    """
    x, y = as_pair(real, fake)
    if n_boot < 2:
        raise ValueError(f"n_boot must be at least 2, better 200; got {n_boot}")
    rng = np.random.default_rng(seed)
    draws = [fn(x[rng.integers(len(x), size=len(x))], y[rng.integers(len(y), size=len(y))]) for _ in range(n_boot)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Projection:
    """Principal axes of a set of features: mean of shape (F,), orthonormal axes of shape (n, F)."""

    mean: NDArray
    axes: NDArray

    def project(self, features: ArrayLike) -> NDArray:
        """Coordinates along the axes, with shape (N, n), in the features' unit (not whitened)."""
        x = as_features(features, "features", n_rows=1)
        if x.shape[1] != len(self.mean):
            raise ValueError(
                f"features must have {len(self.mean)} columns, as those the axes were fitted to; got {x.shape[1]}"
            )
        return (x - self.mean) @ self.axes.T


def fit_pca(features: ArrayLike, n: int) -> Projection:
    """The n axes along which the features vary most, by falling variance.

    The largest entry of every axis is positive, so that two fits of the same rows agree.

    Arguments:
        features: Features of real volumes, with shape (N, F).
        n: Number of axes, at most min(N - 1, F).
    """
    x = as_features(features, "features")
    most = min(len(x) - 1, x.shape[1])
    if not 1 <= n <= most:
        raise ValueError(f"n must lie between 1 and {most} for features of shape {x.shape}; got {n}")
    mean = x.mean(axis=0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:n]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return Projection(mean, axes * np.sign(largest))
