"""Control sets with a known order, and the test whether a metric puts them in this order.

A valid distance places scans of test participants nearer to the training set than blurred, noisy, shuffled or averaged
volumes. Metrics that fail are left out of the joint table (`table.valid_rows`). Volumes have shape (N, I, J, K), values
in [0, 1].
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from neuromf.core import parallel
from neuromf.metrics.distances.table import WORSE_WHEN_SMALLER
from neuromf.metrics.images.spectral import as_volumes
from neuromf.metrics.table import row, set_columns

BLURS = (1.0, 2.0)  # standard deviations of the Gaussian filter in voxels
NOISES = (0.1, 0.2)  # standard deviations of the noise
BLOCK = 16  # side of the shuffled blocks in voxels
CHAINS = (  # from near to far
    ("test", "blurred", "more-blurred"),
    ("test", "noisy", "noisier"),
    ("test", "shuffled"),
    ("test", "mean"),
)
SETS = tuple(dict.fromkeys(name for chain in CHAINS for name in chain))


def halves(n: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Indices of two random halves of n volumes; an odd n leaves one volume out."""
    if n < 4:
        raise ValueError(f"two halves need at least 4 volumes; got {n}")
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 : n // 2 * 2])


def control_sets(real: ArrayLike, *, seed: int = 0, block: int = BLOCK) -> dict[str, NDArray]:
    """Test volumes and degraded versions of them by name, each set as large as the test set.

    "blurred" and "more-blurred": Gaussian filters of BLURS voxels. "noisy" and "noisier": Gaussian noise of NOISES,
    clipped to [0, 1]. "shuffled": permuted blocks. "mean": the mean volume, repeated.

    Arguments:
        real: Volumes (N, I, J, K) that are not in the reference of the metric.
        seed: Seed of noise and permutations; the degraded versions of volume k do not depend on N.
        block: Side of the permuted blocks in voxels.
    """
    real = np.asarray(as_volumes(real, "real"), np.float32)
    versions = parallel.map_in_threads(lambda k: _degraded(real[k], [seed, k], block), range(len(real)))
    sets = {name: np.stack([one[name] for one in versions]) for name in versions[0]}
    return {"test": real, **sets, "mean": np.repeat(real.mean(axis=0, keepdims=True), len(real), axis=0)}


def _degraded(volume: NDArray, seed: Sequence[int], block: int) -> dict[str, NDArray]:
    """Degraded versions of one volume (I, J, K) by name."""
    noise = np.random.default_rng(seed).standard_normal(volume.shape, np.float32)
    blurred = [gaussian_filter(volume, sigma) for sigma in BLURS]
    noisy = [np.clip(volume + sigma * noise, 0, 1) for sigma in NOISES]
    names = "blurred", "more-blurred", "noisy", "noisier", "shuffled"
    return dict(zip(names, [*blurred, *noisy, shuffle_blocks(volume, block, seed=seed)], strict=True))


def shuffle_blocks(volume: NDArray, block: int, *, seed: int | Sequence[int]) -> NDArray:
    """A volume (I, J, K) with permuted blocks; voxels beyond the last complete block stay in place."""
    counts = [side // block for side in volume.shape]
    if np.prod(counts) < 2:
        raise ValueError(f"a volume of {volume.shape} voxels has fewer than 2 blocks of side {block}; lower block")
    inner = tuple(slice(count * block) for count in counts)
    i, j, k = counts
    parts = volume[inner].reshape(i, block, j, block, k, block).transpose(0, 2, 4, 1, 3, 5).reshape(-1, *[block] * 3)
    parts = parts[np.random.default_rng(seed).permutation(len(parts))]
    result = volume.copy()
    joined = parts.reshape(i, j, k, block, block, block).transpose(0, 3, 1, 4, 2, 5)
    result[inner] = joined.reshape([count * block for count in counts])
    return result


def in_order(rows: Iterable[dict], *, larger_is_worse: bool = True, chains: Sequence[Sequence[str]] = CHAINS) -> bool:
    """Whether a metric puts the control sets in order.

    The first set of each chain must be strictly nearer than the others, and these must not get nearer along the chain:
    a bounded metric, such as precision, may reach its bound early. NaN is never in order.

    Arguments:
        rows: Rows of one metric in one feature set, with keys "set" and "value".
        larger_is_worse: True for distances; False for precision, recall, density and coverage.
        chains: Names of sets from near to far.
    """
    values: dict[str, float] = {}
    for each in rows:
        if each["set"] in values:
            raise ValueError(f"rows must belong to one metric in one feature set; set {each['set']} occurs twice")
        values[each["set"]] = each["value"] if larger_is_worse else -each["value"]
    if absent := sorted({name for chain in chains for name in chain} - values.keys()):
        raise ValueError(f"no row of the sets {', '.join(absent)}; evaluate all sets of control_sets()")
    ordered = [[values[name] for name in chain] for chain in chains]
    farther = all(first < other for first, *others in ordered for other in others)
    return farther and all(near <= far for _, *others in ordered for near, far in pairwise(others))


def order_rows(table: pd.DataFrame) -> list[dict]:
    """Rows ordered_{metric} of the set "controls": 1 if the distance puts the control sets in order, else 0.

    Arguments:
        table: Rows of all control sets, see `table.py`.
    """
    rows = []
    for (metric, features), part in table.groupby(["metric", "features"], sort=False):
        if set(SETS) <= set(part["set"]):
            passed = in_order(part.to_dict("records"), larger_is_worse=metric not in WORSE_WHEN_SMALLER)
            result = row(f"ordered_{metric}", passed, int(part["n"].max()), features=features)
            rows.append({**set_columns("controls"), **result})
    return rows
