"""Precision, recall, density and coverage: overlap of the manifolds of real and generated volumes.

The manifold of a set is the union of balls around its volumes, each with the distance to the k-th nearest neighbour in
the set as its radius.

    precision  fraction of generated volumes inside the real manifold
    recall     fraction of real volumes inside the generated manifold
    density    mean number of real balls around a generated volume, divided by k: about 1 for equal distributions, above
               1 if generated volumes concentrate at the mode; real outliers raise it less than they raise precision
    coverage   fraction of real balls that contain a generated volume; generated outliers raise recall, not coverage

Features have shape (N, F), distances are Euclidean. All four depend on N, M and k: for equal distributions, the
expected coverage is 1 - prod_i (N - 1 - i) / (M + N - 1 - i) over i < k (Naeem et al., lemma 2).

References:
    Improved Precision and Recall Metric (Kynkaanniemi et al., 2019), arXiv:1904.06991
    Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), arXiv:2002.09797
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from neuromf.metrics.resampling import check_pair, mean_interval

K = 5  # nearest neighbours, as Naeem et al.
MEASURES = ("precision", "recall", "density", "coverage")


def radii(x: NDArray, k: int) -> NDArray:
    """Distance of each row to its k-th nearest other row, shape (N,)."""
    return np.partition(cdist(x, x), k, axis=1)[:, k]  # index 0 is the row itself


def contributions(real: ArrayLike, fake: ArrayLike, k: int = K) -> dict[str, NDArray]:
    """Contribution of each volume to the measures: M generated ones for precision and density, N real ones otherwise.

    Arguments:
        real: Features of real volumes, shape (N, F), N > k.
        fake: Features of generated volumes, shape (M, F), M > k.
        k: Number of the neighbour that sets the radius of a ball.
    """
    x, y = check_pair(real, fake)
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(
            f"k must be at least 1 and less than the size of both sets; got {k} for {len(x)} and {len(y)} volumes"
        )
    distances = cdist(x, y)
    inside = distances < radii(x, k)[:, None]
    return {
        "precision": inside.any(axis=0).astype(float),
        "recall": (distances < radii(y, k)[None]).any(axis=1).astype(float),
        "density": inside.sum(axis=0) / k,
        "coverage": inside.any(axis=1).astype(float),
    }


def measures(real: ArrayLike, fake: ArrayLike, k: int = K) -> dict[str, float]:
    """Precision, recall, density and coverage; arguments as for `contributions`."""
    return {name: float(values.mean()) for name, values in contributions(real, fake, k).items()}


def intervals(
    real: ArrayLike, fake: ArrayLike, k: int = K, n_boot: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of each measure.

    Only the volumes that are averaged over are resampled, because balls around duplicates have radius 0. The interval
    therefore does not include the variability of the other set.
    """
    rng = np.random.default_rng(seed)
    return {name: mean_interval(values, n_boot, rng) for name, values in contributions(real, fake, k).items()}
