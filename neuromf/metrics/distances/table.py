"""Every distance of one set of features to another, as rows with intervals.

A row says how many generated volumes it rests on. A name with "equal_n" says that both sides had so many, and can be
compared with others of that number. Intervals redraw volumes, slices stay together. Precision and its kin are of
volumes: they take the mean over slices.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuromf.metrics import resampling
from neuromf.metrics.distances import frechet, mmd, prdc, sliced_wasserstein

WORSE_WHEN_SMALLER = prdc.MEASURES  # of all other metrics here a larger value is worse


def distances(
    real: ArrayLike, fake: ArrayLike, features: str, *, n_boot: int = 200, seed: int = 0, k: int = prdc.K
) -> list[dict]:
    """Rows of metric, features, n, value, low and high.

    Arguments:
        real: Features of the reference, with shape (N, S, F) or (N, F).
        fake: Features of the set that is measured, with shape (M, S, F) or (M, F).
        features: Name of the feature set, with its plane where it has one.
        n_boot: Redraws of an interval.
        seed: Of redraws, subsets and directions.
        k: Neighbours that a ball reaches to; precision and its kin are left out of sets that have no more.
    """
    x, y = resampling.by_volume(real, "real"), resampling.by_volume(fake, "fake")
    found = _measured(x, y, n_boot=n_boot, seed=seed, k=k)
    return [
        {"metric": name, "features": features, "n": len(y), "value": float(value), "low": low, "high": high}
        for name, value, (low, high) in found
    ]


def _measured(
    x: NDArray, y: NDArray, *, n_boot: int, seed: int, k: int
) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """Name, value and interval of each metric of features (N, S, F) and (M, S, F)."""
    rows = resampling.rows(x), resampling.rows(y)
    again = {"n_boot": n_boot, "seed": seed}
    yield "frechet", frechet.frechet_distance(*rows), frechet.frechet_interval(x, y, **again)
    equal, n = resampling.at_equal_n(frechet.frechet_distance, x, y, seed=seed)
    yield f"frechet_equal_n{n}", equal, (np.nan, np.nan)
    for name, kernels in (("kid", mmd.polynomial(x, y)), ("mmd2", mmd.rbf(x, y))):
        yield name, kernels.mmd2(), kernels.interval(**again)
    yield (
        "sliced_wasserstein",
        sliced_wasserstein.sliced_wasserstein(x, y, seed=seed),
        sliced_wasserstein.sliced_interval(x, y, **again),
    )
    if min(len(x), len(y)) > k:
        means = x.mean(axis=1), y.mean(axis=1)
        values, intervals = prdc.manifold(*means, k), prdc.intervals(*means, k, **again)
        yield from ((name, values[name], intervals[name]) for name in prdc.MEASURES)
