r"""Maximum mean discrepancy (MMD) of two feature sets, unbiased for any number of volumes.

.. math:: \mathrm{MMD}^2 = E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y)

with two different real volumes x, x' and two different generated volumes y, y'. It has no unit, assumes no Gaussian, is
0 on average for equal distributions, and may be negative. Two kernels:

    rbf         mean of exp(-|x - y|² / (2 s²)) over five widths s: 1/4, 1/2, 1, 2 and 4 times the median distance
                between real volumes, so that all sets are compared with the same kernel
    polynomial  (x·y / F + 1)³, the Kernel Inception Distance (KID), over all pairs, without blocks

Features have shape (N, F), or (N, S, F) for slices: then the kernel of two volumes is the mean over their slices, and
slices of one volume are not compared with each other.

References:
    A Kernel Two-Sample Test (Gretton et al., 2012), JMLR 13, eq. 3
    Demystifying MMD GANs (Binkowski et al., 2018), arXiv:1801.01401
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from neuromf.metrics.resampling import (
    bootstrap_indices,
    by_volume,
    check_pair,
    percentile_interval,
    row_counts,
    stack_slices,
)

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # in median distances between real volumes
MOST_FOR_MEDIAN = 1000  # rows that the median distance is computed from

Kernel = Callable[[NDArray, NDArray], NDArray]  # rows (N, F) and (M, F) to (N, M)


@dataclass(frozen=True)
class Kernels:
    """Kernel values between volumes: real and real (N, N), fake and fake (M, M), real and fake (N, M)."""

    real: NDArray
    fake: NDArray
    cross: NDArray

    def mmd2(self, n_real: NDArray | None = None, n_fake: NDArray | None = None) -> float:
        """MMD² of volumes with multiplicities (1 by default); a volume is never compared with itself."""
        p = np.ones(len(self.real)) if n_real is None else n_real
        q = np.ones(len(self.fake)) if n_fake is None else n_fake
        between = p @ self.cross @ q / (p.sum() * q.sum())
        return float(mean_of_pairs(self.real, p) + mean_of_pairs(self.fake, q) - 2 * between)

    def interval(self, n_boot: int = 200, seed: int = 0) -> tuple[float, float]:
        """95 % bootstrap interval, resampling the volumes of both sets; resamples of one single volume are left out."""
        sizes = len(self.real), len(self.fake)
        values = np.array([self.mmd2(*row_counts(pair, sizes)) for pair in bootstrap_indices(*sizes, n_boot, seed)])
        return percentile_interval(values[np.isfinite(values)])


def mean_of_pairs(kernel: NDArray, counts: NDArray) -> float:
    """Mean of a kernel (N, N) over pairs of different volumes with multiplicities `counts`; NaN for a single volume."""
    total = counts @ kernel @ counts - counts**2 @ np.diag(kernel)
    n_pairs = counts.sum() ** 2 - np.sum(counts**2)
    return float(total / n_pairs) if n_pairs else np.nan


def rbf(real: ArrayLike, fake: ArrayLike, widths: ArrayLike | None = None) -> Kernels:
    """Gaussian kernels, averaged over `widths` (in the unit of the features; default: five multiples of the median)."""
    x, y = _check_sets(real, fake)
    widths = median_distance(x) * np.array(WIDTHS) if widths is None else np.atleast_1d(widths)
    if not (widths > 0).all():
        raise ValueError(f"widths must be above 0; got {widths.tolist()}: are all real volumes equal?")

    def kernel(a: NDArray, b: NDArray) -> NDArray:
        squares = cdist(a, b, "sqeuclidean")
        return np.mean([np.exp(-squares / (2 * width**2)) for width in widths], axis=0)

    return _kernels(kernel, x, y)


def polynomial(real: ArrayLike, fake: ArrayLike) -> Kernels:
    """Polynomial kernel (x·y / F + 1)³: `polynomial(real, fake).mmd2()` is KID."""
    return _kernels(lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3, *_check_sets(real, fake))


def median_distance(real: NDArray) -> float:
    """Median distance between rows of (N, S, F), over at most MOST_FOR_MEDIAN evenly spaced rows."""
    x = stack_slices(real)
    return float(np.median(pdist(x[np.linspace(0, len(x) - 1, min(len(x), MOST_FOR_MEDIAN)).astype(int)])))


def _check_sets(real: ArrayLike, fake: ArrayLike) -> tuple[NDArray, NDArray]:
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    check_pair(stack_slices(x), stack_slices(y))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"MMD needs at least 2 volumes in both sets; got {len(x)} and {len(y)}")
    return x, y


def _kernels(kernel: Kernel, x: NDArray, y: NDArray) -> Kernels:
    return Kernels(_mean_over_slices(kernel, x, x), _mean_over_slices(kernel, y, y), _mean_over_slices(kernel, x, y))


def _mean_over_slices(kernel: Kernel, x: NDArray, y: NDArray) -> NDArray:
    """Kernel of volumes (N, S, F) and (M, T, F), averaged over slices: (N, M)."""
    n_slices = y.shape[1]
    if x.shape[1] == n_slices == 1:
        return kernel(x[:, 0], y[:, 0])
    means = [kernel(volume, stack_slices(y)).mean(axis=0) for volume in x]
    return np.stack(means).reshape(len(x), len(y), n_slices).mean(axis=2)
