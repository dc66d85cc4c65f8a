"""Bootstrap resampling of sets of features, and checks of their shapes."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def bootstrap_indices(n_real: int, n_fake: int, n_boot: int, seed: int) -> list[tuple[NDArray, NDArray]]:
    """Volumes of both sets drawn again, with replacement: n_boot pairs of indices, for every interval the same."""
    if n_boot < 2:
        raise ValueError(f"n_boot must be at least 2, better 200; got {n_boot}")
    rng = np.random.default_rng(seed)
    return [(rng.integers(n_real, size=n_real), rng.integers(n_fake, size=n_fake)) for _ in range(n_boot)]


def percentile_interval(values: NDArray | Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def recentred_interval(value: float, again: NDArray | Sequence[float]) -> tuple[float, float]:
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
    """Ends of the 95 % interval of fn, as `recentred_interval` lays them, when the volumes of both sets are drawn again.

    Arguments:
        fn: A statistic of two sets of features, for instance ``frechet_distance``.
        real: Features of real volumes, with shape (N, F), or (N, S, F) of slices, which stay together.
        fake: Features of generated volumes, with shape (M, F) or (M, S, F).
        n_boot: Number of redraws.
        seed: Seed of the redraws.

    """
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    as_pair(rows(x), rows(y))
    redrawn = [fn(rows(x[i]), rows(y[j])) for i, j in bootstrap_indices(len(x), len(y), n_boot, seed)]
    return recentred_interval(fn(rows(x), rows(y)), redrawn)


def row_counts(pair: Sequence[NDArray], sizes: Sequence[int], slices: Sequence[int] = (1, 1)) -> list[NDArray]:
    """How often each row of either set is drawn, from indices of volumes, their number and slices each."""
    parts = zip(pair, sizes, slices, strict=True)
    return [np.repeat(np.bincount(drawn, minlength=n), n_slices) for drawn, n, n_slices in parts]


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
