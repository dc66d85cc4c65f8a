r"""Maximum mean discrepancy of two sets of features, unbiased at any number of volumes: 0 on average where they agree.

.. math:: \mathrm{MMD}^2 = E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y)

with x, x' two different real volumes and y, y' two different generated ones. It has no unit, may fall below 0, and
needs no Gaussian. Two kernels:

    rbf         mean of exp(-|x - y|² / (2 s²)) over five widths s: 1/4, 1/2, 1, 2 and 4 times the median distance
                between real volumes, so that every set is judged by the same kernel
    polynomial  (x·y / F + 1)³, the Kernel Inception Distance (KID), over all pairs at once, without blocks

Features have shape (N, F), or (N, S, F) of slices: then k of two volumes is its mean over their slices, and slices of
one volume are never compared with one another.

References:
    A Kernel Two-Sample Test (Gretton et al., 2012), JMLR 13, eq. 3
    Demystifying MMD GANs (Binkowski et al., 2018), arXiv:1801.01401
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from neuromf.metrics.resampling import as_pair, bootstrap_indices, by_volume, percentile_interval, row_counts, rows

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median distance between real volumes
MOST_FOR_MEDIAN = 1000  # rows that the median distance is taken over

Kernel = Callable[[NDArray, NDArray], NDArray]  # of rows (N, F) and (M, F): (N, M)


@dataclass(frozen=True)
class Kernels:
    """Values of a kernel between volumes: real with real (N, N), fake with fake (M, M), real with fake (N, M)."""

    real: NDArray
    fake: NDArray
    cross: NDArray

    def mmd2(self, n_real: NDArray | None = None, n_fake: NDArray | None = None) -> float:
        """MMD² of volumes that count so many times, each once by default; a volume is never compared with itself."""
        p = np.ones(len(self.real)) if n_real is None else n_real
        q = np.ones(len(self.fake)) if n_fake is None else n_fake
        between = p @ self.cross @ q / (p.sum() * q.sum())
        return float(among(self.real, p) + among(self.fake, q) - 2 * between)

    def interval(self, n_boot: int = 200, seed: int = 0) -> tuple[float, float]:
        """Ends of the 95 % interval when the volumes of both sets are drawn again; nothing is computed anew.

        A redraw of one volume alone, which happens where there are hardly more, does not count.
        """
        sizes = len(self.real), len(self.fake)
        values = np.array([self.mmd2(*row_counts(pair, sizes)) for pair in bootstrap_indices(*sizes, n_boot, seed)])
        return percentile_interval(values[np.isfinite(values)])


def among(kernel: NDArray, counts: NDArray) -> float:
    """Mean of a kernel (N, N) over pairs of different volumes, which count so many times; NaN of a single one."""
    total = counts @ kernel @ counts - counts**2 @ np.diag(kernel)
    n_pairs = counts.sum() ** 2 - np.sum(counts**2)
    return float(total / n_pairs) if n_pairs else np.nan


def rbf(real: ArrayLike, fake: ArrayLike, widths: ArrayLike | None = None) -> Kernels:
    """Kernels by Gaussians of five widths, or of those given, in the features' unit."""
    x, y = _checked(real, fake)
    widths = median_distance(x) * np.array(WIDTHS) if widths is None else np.atleast_1d(widths)
    if not (widths > 0).all():
        raise ValueError(f"widths must be above 0; got {widths.tolist()}: are the real volumes all alike?")

    def kernel(a: NDArray, b: NDArray) -> NDArray:
        squares = cdist(a, b, "sqeuclidean")
        return np.mean([np.exp(-squares / (2 * width**2)) for width in widths], axis=0)

    return _kernels(kernel, x, y)


def polynomial(real: ArrayLike, fake: ArrayLike) -> Kernels:
    """Kernels by (x·y / F + 1)³: `polynomial(real, fake).mmd2()` is KID."""
    return _kernels(lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3, *_checked(real, fake))


def median_distance(real: NDArray) -> float:
    """Median distance between rows of (N, S, F), evenly picked ones where there are many."""
    x = rows(real)
    return float(np.median(pdist(x[np.linspace(0, len(x) - 1, min(len(x), MOST_FOR_MEDIAN)).astype(int)])))


def _checked(real: ArrayLike, fake: ArrayLike) -> tuple[NDArray, NDArray]:
    x, y = by_volume(real, "real"), by_volume(fake, "fake")
    as_pair(rows(x), rows(y))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"MMD compares different volumes and needs 2 on either side; got {len(x)} and {len(y)}")
    return x, y


def _kernels(kernel: Kernel, x: NDArray, y: NDArray) -> Kernels:
    return Kernels(_between(kernel, x, x), _between(kernel, y, y), _between(kernel, x, y))


def _between(kernel: Kernel, x: NDArray, y: NDArray) -> NDArray:
    """Means of a kernel over the slices of volumes (N, S, F) and (M, T, F): (N, M), a volume of x at a time."""
    n_slices = y.shape[1]
    if x.shape[1] == n_slices == 1:
        return kernel(x[:, 0], y[:, 0])
    means = [kernel(volume, rows(y)).mean(axis=0) for volume in x]
    return np.stack(means).reshape(len(x), len(y), n_slices).mean(axis=2)
