"""All distances between two feature sets, as rows with intervals.

The column n holds the number of generated volumes. Metrics named equal_n{n} use n volumes on both sides and are
comparable with others of the same n. Intervals resample volumes; slices stay with their volume. Precision, recall,
density and coverage use the mean over the slices of a volume.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuromf.metrics import resampling
from neuromf.metrics.distances import frechet, mmd, prdc, sliced_wasserstein
from neuromf.metrics.table import row

WORSE_WHEN_SMALLER = prdc.MEASURES  # for all other metrics here, larger is worse
NO_INTERVAL = (np.nan, np.nan)


def distances(
    real: ArrayLike, fake: ArrayLike, features: str, *, n_boot: int = 200, seed: int = 0, k: int = prdc.K
) -> list[dict]:
    """Rows of metric, features, n, value, low and high.

    Arguments:
        real: Features of the reference, shape (N, S, F) or (N, F).
        fake: Features of the evaluated set, shape (M, S, F) or (M, F).
        features: Name of the feature set and plane.
        n_boot: Bootstrap resamples of an interval.
        seed: Seed of resamples, subsets and projections.
        k: Nearest neighbours of precision, recall, density and coverage; sets of k volumes or fewer lack these rows.
    """
    x, y = resampling.by_volume(real, "real"), resampling.by_volume(fake, "fake")
    results = _distances(x, y, n_boot=n_boot, seed=seed, k=k)
    return [row(name, value, len(y), low=low, high=high, features=features) for name, value, (low, high) in results]


def _distances(
    x: NDArray, y: NDArray, *, n_boot: int, seed: int, k: int
) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """Name, value and interval of each metric of features (N, S, F) and (M, S, F)."""
    rows = resampling.stack_slices(x), resampling.stack_slices(y)
    boot = {"n_boot": n_boot, "seed": seed}
    yield "frechet", frechet.frechet_distance(*rows), frechet.frechet_interval(x, y, **boot)
    equal, n = resampling.at_equal_n(frechet.frechet_distance, x, y, seed=seed)
    yield f"frechet_equal_n{n}", equal, NO_INTERVAL
    for name, kernels in (("kid", mmd.polynomial(x, y)), ("mmd2", mmd.rbf(x, y))):
        yield name, kernels.mmd2(), kernels.interval(**boot)
    sliced, interval = sliced_wasserstein.sliced_wasserstein, sliced_wasserstein.sliced_interval
    yield "sliced_wasserstein", sliced(x, y, seed=seed), interval(x, y, **boot)
    if min(len(x), len(y)) > k:
        means = x.mean(axis=1), y.mean(axis=1)
        values, intervals = prdc.measures(*means, k), prdc.intervals(*means, k, **boot)
        yield from ((name, values[name], intervals[name]) for name in prdc.MEASURES)
