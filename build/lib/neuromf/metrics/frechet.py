r"""Fréchet distance between two sets of features, and intervals of it.

Features have shape (N, F): one row per volume. Each set is summed up by its mean and covariance
(with N - 1), and the distance between the two Gaussians is

.. math:: |m_1 - m_2|^2 + \mathrm{tr}\, S_1 + \mathrm{tr}\, S_2 - 2\, \mathrm{tr} (S_1 S_2)^{1/2}

which has the features' unit squared; this is the number reported as FID. With S = AᵀA and
S' = BᵀB the last trace is the sum of the singular values of ABᵀ, so no matrix square root is
taken and fewer rows than features are no obstacle. Few rows still bias the distance upwards:
compare only distances made from equally many rows (``at_equal_n``).

Features of slices have shape (N, S, F): every slice is a row, but what is drawn is a volume with all its slices.

References:
    GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), arXiv:1706.08500
    The Fréchet distance between multivariate normal distributions (Dowson & Landau, 1982)
    Effectively Unbiased FID and Inception Score (Chong & Forsyth, 2020), arXiv:1911.07023
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh

LARGE = 256  # side of a matrix from which on eigenvalues are taken first, and singular values where those will not do
TOLERANCE = 1e-4  # relative error of a distance that rounding of eigenvalues may cause

Distance = Callable[[NDArray, NDArray], float]  # of features (N, F) and (M, F)


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


def by_volume(features: ArrayLike, name: str = "features") -> NDArray:
    """Features as (N, S, F), one volume per entry of the first axis, from (N, F) or (N, S, F)."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 3:
        return as_features(x, name, 1)[:, None]
    as_features(rows(x), name, 1)
    return x


def rows(features: ArrayLike) -> NDArray:
    """Features (N, F) or (N, S, F) with each slice as a row: (N S, F)."""
    x = np.asarray(features)
    return x.reshape(-1, x.shape[-1]) if x.ndim == 3 else x


def factor(x: NDArray) -> NDArray:
    """A matrix A of shape (min(N, F), F) with AᵀA the covariance of the rows of x."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred  # type: ignore[return-value]  # R alone


def distance_of(cross: NDArray, known: float) -> float:
    """known, less twice the sum of the singular values of cross, not below 0.

    The eigenvalues of a large matrix times its transpose come three times faster than its singular values, but the
    roots of those near 0 are rounding: they are used where the distance is large enough not to feel it.
    """
    if min(cross.shape) > LARGE:
        cross = cross if cross.shape[0] <= cross.shape[1] else cross.T
        roots = np.sqrt(np.clip(eigvalsh(cross @ cross.T, driver="evr", check_finite=False), 0, None))
        value = known - 2 * roots.sum()
        if len(roots) * np.sqrt(np.finfo(float).eps) * roots[-1] < TOLERANCE * value:
            return float(value)
    return float(max(known - 2 * np.linalg.svd(cross, compute_uv=False).sum(), 0.0))  # equal sets may round to -1e-15


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
    return distance_of(a @ b.T, means + np.sum(a**2) + np.sum(b**2))


def draws(n_real: int, n_fake: int, n_boot: int, seed: int) -> list[tuple[NDArray, NDArray]]:
    """Volumes of both sets drawn again, with replacement: n_boot pairs of indices, for every interval the same."""
    if n_boot < 2:
        raise ValueError(f"n_boot must be at least 2, better 200; got {n_boot}")
    rng = np.random.default_rng(seed)
    return [(rng.integers(n_real, size=n_real), rng.integers(n_fake, size=n_fake)) for _ in range(n_boot)]


def interval(values: NDArray | Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def around(value: float, again: NDArray | Sequence[float]) -> tuple[float, float]:
    """Ends of the 95 % interval of a distance: how far redraws spread about their median, laid around its value.

    Redraws hold volumes twice and so look like fewer of them, and their distances lie above that of the sets
    themselves, for small sets by half of it: they say how wide, and not where. A distance does not go below 0.
    """
    low, high = value + np.nanpercentile(again, [2.5, 97.5]) - np.nanmedian(again)
    return float(max(low, 0.0) if np.nanmin(again) >= 0 else low), float(high)


def bootstrap(
    fn: Distance,
    real: ArrayLike,
    fake: ArrayLike,
    n_boot: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Ends of the 95 % interval of fn, as `around` lays them, when the volumes of both sets are drawn again.

    Arguments:
        fn: A statistic of two sets of features, for instance ``frechet_distance``.
        real: Features of real volumes, with shape (N, F), or (N, S, F) of slices, which stay together.
        fake: Features of generated volumes, with shape (M, F) or (M, S, F).
        n_boot: Number of redraws.
        seed: Seed of the redraws.

    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    as_pair(rows(x), rows(y))
    redrawn = [fn(rows(x[i]), rows(y[j])) for i, j in draws(len(x), len(y), n_boot, seed)]
    return around(fn(rows(x), rows(y)), redrawn)


def frechet_interval(real: ArrayLike, fake: ArrayLike, n_boot: int = 200, seed: int = 0) -> tuple[float, float]:
    """What ``bootstrap`` gives for ``frechet_distance``, in a fraction of the time where features are many.

    All products of rows are formed once; a redraw takes them with weights, and the rows that it left out do not count.
    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    slices, sizes = (x.shape[1], y.shape[1]), (len(x), len(y))
    pairs = draws(len(x), len(y), n_boot, seed)
    x, y = as_pair(rows(x), rows(y))
    if min(len(x), len(y)) > x.shape[1]:
        return bootstrap(frechet_distance, real, fake, n_boot, seed)
    centre = x.mean(axis=0)  # products of what is left lose fewer digits
    x, y = x - centre, y - centre
    cross = x @ y.T
    redrawn = [_redrawn(x, y, cross, *row_counts(pair, sizes, slices)) for pair in pairs]
    return around(frechet_distance(x, y), redrawn)


def row_counts(pair: Sequence[NDArray], sizes: Sequence[int], slices: Sequence[int] = (1, 1)) -> list[NDArray]:
    """How often each row of either set is drawn, from indices of volumes, their number and slices each."""
    parts = zip(pair, sizes, slices, strict=True)
    return [np.repeat(np.bincount(drawn, minlength=n), n_slices) for drawn, n, n_slices in parts]


def _redrawn(x: NDArray, y: NDArray, cross: NDArray, n_x: NDArray, n_y: NDArray) -> float:
    """Fréchet distance of rows x that count n_x times and rows y that count n_y times; cross is xyᵀ."""
    i, j = np.flatnonzero(n_x), np.flatnonzero(n_y)
    p, q = n_x[i] / n_x.sum(), n_y[j] / n_y.sum()
    x, y, cross = x[i], y[j], cross[np.ix_(i, j)]
    x_mean, y_mean = p @ x, q @ y
    cross = cross - (x @ y_mean)[:, None] - x_mean @ y.T + x_mean @ y_mean
    bessel = n_x.sum() / (n_x.sum() - 1), n_y.sum() / (n_y.sum() - 1)
    traces = bessel[0] * (p @ np.sum((x - x_mean) ** 2, axis=1)) + bessel[1] * (q @ np.sum((y - y_mean) ** 2, axis=1))
    cross = np.sqrt(bessel[0] * bessel[1] * np.outer(p, q)) * cross
    return distance_of(cross, np.sum((x_mean - y_mean) ** 2) + traces)


def subsets(features: NDArray, n: int, repeats: int, rng: np.random.Generator) -> list[NDArray]:
    """Rows of n of the volumes of (N, S, F), drawn without replacement, again and again."""
    return [rows(features[rng.permutation(len(features))[:n]]) for _ in range(repeats)]


def at_equal_n(
    fn: Distance, real: ArrayLike, fake: ArrayLike, n: int | None = None, *, repeats: int = 10, seed: int = 0
) -> tuple[float, int]:
    """Mean of fn over subsets of n volumes of either set, and n: distances of equal n can be compared.

    Arguments:
        fn: A statistic of two sets of features.
        real: Features of real volumes, with shape (N, F) or (N, S, F).
        fake: Features of generated volumes, with shape (M, F) or (M, S, F).
        n: Volumes on each side, at most those of the smaller set, which is the default.
        repeats: Number of subsets.
        seed: Seed of the subsets.
    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    most = min(len(x), len(y))
    n = most if n is None else n
    if not 2 <= n <= most:
        raise ValueError(f"n must lie between 2 and {most}, the volumes of the smaller set; got {n}")
    rng = np.random.default_rng(seed)
    pairs = zip(subsets(x, n, repeats, rng), subsets(y, n, repeats, rng), strict=True)
    return float(np.mean([fn(*pair) for pair in pairs])), n
