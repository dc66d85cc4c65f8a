"""Sets of volumes whose order is known: floors, ceilings, and the test that a metric can tell them apart.

A metric that does not find people nearer to other people than blurred, noisy, shuffled or averaged ones are does not
measure what a reader thinks it does, and is not shown. Volumes have shape (N, I, J, K), in [0, 1].
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from neuromf.core import parallel
from neuromf.metrics.images.spectral import as_volumes

BLURS = (1.0, 2.0)  # standard deviations of the Gaussian in voxels
NOISES = (0.1, 0.2)  # standard deviations of the noise, of an intensity range of 1
BLOCK = 16  # side in voxels of the blocks that are shuffled
CHAINS = (  # from near to far
    ("test", "blurred", "more-blurred"),
    ("test", "noisy", "noisier"),
    ("test", "shuffled"),
    ("test", "mean"),
)


def halves(n: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Indices of two random halves of n volumes, one left out where n is odd."""
    if n < 4:
        raise ValueError(f"halves need at least 4 volumes; got {n}")
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 : n // 2 * 2])


def controls(real: ArrayLike, *, seed: int = 0, block: int = BLOCK) -> dict[str, NDArray]:
    """Real volumes as they are and made worse in known ways, by name; each set is as large as the real one.

    "blurred" and "more-blurred" by Gaussians of BLURS voxels, "noisy" and "noisier" by Gaussian noise of NOISES clipped
    to [0, 1], "shuffled" with blocks permuted, "mean" with every volume the mean of all.

    Arguments:
        real: Volumes (N, I, J, K) that the metric's reference does not hold: one half, or held-out people.
        seed: Seed of noise and permutations; those of volume k are the same in a set of any size.
        block: Side of the permuted blocks in voxels.
    """
    real = np.asarray(as_volumes(real, "real"), np.float32)
    every = parallel.map_in_threads(lambda k: _worse(real[k], [seed, k], block), range(len(real)))
    made = {name: np.stack([one[name] for one in every]) for name in every[0]}
    return {"test": real, **made, "mean": np.repeat(real.mean(axis=0, keepdims=True), len(real), axis=0)}


def _worse(volume: NDArray, seed: Sequence[int], block: int) -> dict[str, NDArray]:
    """What can be done to a single volume (I, J, K), by name."""
    noise = np.random.default_rng(seed).standard_normal(volume.shape, np.float32)
    blurred = [gaussian_filter(volume, sigma) for sigma in BLURS]
    noisy = [np.clip(volume + sigma * noise, 0, 1) for sigma in NOISES]
    names = "blurred", "more-blurred", "noisy", "noisier", "shuffled"
    return dict(zip(names, [*blurred, *noisy, shuffled(volume, block, seed=seed)], strict=True))


def shuffled(volume: NDArray, block: int, *, seed: int | Sequence[int]) -> NDArray:
    """A volume (I, J, K) with its blocks permuted; a rim that fills no block stays."""
    counts = [side // block for side in volume.shape]
    if np.prod(counts) < 2:
        raise ValueError(f"blocks of {block} voxels leave nothing to permute in {volume.shape}: take smaller ones")
    inner = tuple(slice(count * block) for count in counts)
    i, j, k = counts
    parts = volume[inner].reshape(i, block, j, block, k, block).transpose(0, 2, 4, 1, 3, 5).reshape(-1, *[block] * 3)
    parts = parts[np.random.default_rng(seed).permutation(len(parts))]
    result = volume.copy()
    joined = parts.reshape(i, j, k, block, block, block).transpose(0, 3, 1, 4, 2, 5)
    result[inner] = joined.reshape([count * block for count in counts])
    return result


def orders(rows: Iterable[dict], *, larger_is_worse: bool = True, chains: Sequence[Sequence[str]] = CHAINS) -> bool:
    """Whether a metric puts the control sets in order.

    The first of each chain must be nearer than all others of it, and none nearer than the one before: a metric that has
    an end, as precision has at 0, may reach it. NaN is never in order.

    Arguments:
        rows: Rows of one metric in one feature set, with the set's name under "set" and its "value".
        larger_is_worse: As for distances; precision, density and coverage fall.
        chains: Names of sets from near to far.
    """
    values: dict[str, float] = {}
    for row in rows:
        if row["set"] in values:
            raise ValueError(f"rows must be of one metric in one feature set; {row['set']} came twice")
        values[row["set"]] = row["value"] if larger_is_worse else -row["value"]
    if absent := sorted({name for chain in chains for name in chain} - values.keys()):
        raise ValueError(f"no row of {', '.join(absent)}: measure every set that controls() makes")
    found = [[values[name] for name in chain] for chain in chains]
    farther = all(first < other for first, *others in found for other in others)
    return farther and all(near <= far for _, *others in found for near, far in pairwise(others))
