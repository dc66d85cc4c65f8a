"""Bootstrap resampling of volumes, and checks of feature arrays.

Features have shape (N, F), or (N, S, F) for S slices per volume. Volumes are resampled; slices stay with their volume.

scipy.stats.bootstrap is not used: its two-sample bootstrap resamples rows of 1D samples, has no recentred interval,
and has other random streams than the results of this project.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distance = Callable[[NDArray, NDArray], float]  # of features (N, F) and (M, F)


def check_features(features: ArrayLike, name: str, n_rows: int = 2) -> NDArray:
    """Features as a finite (N, F) float64 array with at least n_rows rows."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] < n_rows or x.shape[1] < 1:
        raise ValueError(f"{name} must have shape (N, F), one row per volume, at least {n_rows}; got {x.shape}")
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{name} must be finite; got NaN or infinity in {rows} of {len(x)} rows: check the volumes")
    return x


def check_pair(real: ArrayLike, fake: ArrayLike) -> tuple[NDArray, NDArray]:
    """Two feature arrays (N, F) and (M, F) with the same columns."""
    x, y = check_features(real, "real"), check_features(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"real and fake must have the same number of features; got {x.shape[1]} and {y.shape[1]}: "
            "compute both with one network and one projection"
        )
    return x, y


def by_volume(features: ArrayLike, name: str = "features") -> NDArray:
    """Features as a finite float64 array (N, S, F), from (N, F) or (N, S, F)."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 3:
        return check_features(x, name, 1)[:, None]
    check_features(stack_slices(x), name, 1)
    return x


def stack_slices(features: ArrayLike) -> NDArray:
    """Features (N, F) or (N, S, F) with one row per slice: (N S, F)."""
    x = np.asarray(features)
    return x.reshape(-1, x.shape[-1]) if x.ndim == 3 else x


def bootstrap_indices(
    n_real: int, n_fake: int, n_boot: int, seed: int | np.random.Generator
) -> list[tuple[NDArray, NDArray]]:
    """Bootstrap resamples of two sets of volumes: n_boot pairs of indices, equal for equal seeds."""
    if n_boot < 2:
        raise ValueError(f"n_boot must be at least 2, better 200; got {n_boot}")
    rng = np.random.default_rng(seed)
    return [(rng.integers(n_real, size=n_real), rng.integers(n_fake, size=n_fake)) for _ in range(n_boot)]


def percentile_interval(values: NDArray | Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def recentred_interval(value: float, resampled: NDArray | Sequence[float]) -> tuple[float, float]:
    """95 % interval of a distance: the spread of its bootstrap distribution, centred on the point estimate.

    Bootstrap resamples contain duplicates, which biases distances upwards (by up to 50 % for small sets), so the
    percentiles themselves lie above the estimate. The lower end is at least 0 if no resample is negative.
    """
    low, high = value + np.nanpercentile(resampled, [2.5, 97.5]) - np.nanmedian(resampled)
    return float(max(low, 0.0) if np.nanmin(resampled) >= 0 else low), float(high)


def bootstrap(
    distance: Distance, real: ArrayLike, fake: ArrayLike, n_boot: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Recentred 95 % bootstrap interval of a distance, resampling the volumes of both sets.

    Arguments:
        distance: Function of two feature arrays, for instance `frechet_distance`.
        real: Features of real volumes, shape (N, F) or (N, S, F).
        fake: Features of generated volumes, shape (M, F) or (M, S, F).
        n_boot: Number of resamples.
        seed: Seed of the resamples.
    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    check_pair(stack_slices(x), stack_slices(y))
    pairs = bootstrap_indices(len(x), len(y), n_boot, seed)
    resampled = [distance(stack_slices(x[i]), stack_slices(y[j])) for i, j in pairs]
    return recentred_interval(distance(stack_slices(x), stack_slices(y)), resampled)


def mean_interval(values: NDArray, n_boot: int, seed: int | np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of values (n,)."""
    indices = np.random.default_rng(seed).integers(len(values), size=(n_boot, len(values)))
    return percentile_interval(values[indices].mean(axis=1))


def row_counts(pair: Sequence[NDArray], sizes: Sequence[int], slices: Sequence[int] = (1, 1)) -> list[NDArray]:
    """Number of times each row (slice) of both sets occurs in a resample of volume indices.

    Arguments:
        pair: Volume indices of both sets.
        sizes: Number of volumes of both sets.
        slices: Number of slices per volume of both sets.
    """
    parts = zip(pair, sizes, slices, strict=True)
    return [np.repeat(np.bincount(drawn, minlength=n), n_slices) for drawn, n, n_slices in parts]


def at_equal_n(
    distance: Distance, real: ArrayLike, fake: ArrayLike, n: int | None = None, *, repeats: int = 10, seed: int = 0
) -> tuple[float, int]:
    """Mean distance over random subsets of n volumes of both sets, and n.

    The bias of a distance depends on the number of volumes; distances at equal n are comparable.

    Arguments:
        distance: Function of two feature arrays.
        real: Features of real volumes, shape (N, F) or (N, S, F).
        fake: Features of generated volumes, shape (M, F) or (M, S, F).
        n: Volumes per subset; None: the size of the smaller set.
        repeats: Number of subsets.
        seed: Seed of the subsets.
    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    smaller = min(len(x), len(y))
    n = smaller if n is None else n
    if not 2 <= n <= smaller:
        raise ValueError(f"n must lie between 2 and {smaller}, the size of the smaller set; got {n}")
    rng = np.random.default_rng(seed)
    subsets = ([stack_slices(z[rng.permutation(len(z))[:n]]) for _ in range(repeats)] for z in (x, y))
    return float(np.mean([distance(*pair) for pair in zip(*subsets, strict=True)])), n
