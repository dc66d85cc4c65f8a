"""Are generated volumes where real ones are, and is every kind of real volume among them?

The manifold of a set is the union of balls around its volumes, each reaching to the volume's k-th nearest neighbour in
the set.

    precision  share of generated volumes inside the real manifold: 1 when none is odd
    recall     share of real volumes inside the generated manifold: 1 when none is missed
    density    real balls that a generated volume lies in, over k, on average: about 1 when all is right, above 1 where
               generated volumes crowd in the middle; a real outlier does not raise it as it does precision
    coverage   share of real balls with a generated volume inside; generated outliers raise recall, not coverage

Features have shape (N, F), distances are Euclidean. All depends on N, M and k: of sets drawn from the same people,
coverage is 1 - prod_i (N - 1 - i) / (M + N - 1 - i) over i < k on average (Naeem et al., lemma 2).

References:
    Improved Precision and Recall Metric (Kynkaanniemi et al., 2019), arXiv:1904.06991
    Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), arXiv:2002.09797
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from neuromf.metrics.resampling import as_pair, percentile_interval

K = 5  # nearest neighbours, as Naeem et al.
MEASURES = ("precision", "recall", "density", "coverage")


def radii(x: NDArray, k: int) -> NDArray:
    """Distance of each row to its k-th nearest other row, with shape (N,)."""
    return np.partition(cdist(x, x), k, axis=1)[:, k]  # the nearest is the row itself


def judged(real: ArrayLike, fake: ArrayLike, k: int = K) -> dict[str, NDArray]:
    """What each volume adds to the measures: of M generated ones precision and density, of N real ones the others.

    Arguments:
        real: Features of real volumes, with shape (N, F), N > k.
        fake: Features of generated volumes, with shape (M, F), M > k.
        k: Neighbours that a ball reaches to.
    """
    x, y = as_pair(real, fake)
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(
            f"k must lie between 1 and the volumes of the smaller set less 1; got {k} for {len(x)} and {len(y)} volumes"
        )
    distances = cdist(x, y)
    inside = distances < radii(x, k)[:, None]
    return {
        "precision": inside.any(axis=0).astype(float),
        "recall": (distances < radii(y, k)[None]).any(axis=1).astype(float),
        "density": inside.sum(axis=0) / k,
        "coverage": inside.any(axis=1).astype(float),
    }


def manifold(real: ArrayLike, fake: ArrayLike, k: int = K) -> dict[str, float]:
    """Precision, recall, density and coverage; the arguments are those of `judged`."""
    return {name: float(values.mean()) for name, values in judged(real, fake, k).items()}


def intervals(
    real: ArrayLike, fake: ArrayLike, k: int = K, n_boot: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Ends of the 95 % interval of each measure when the volumes that it judges are drawn again.

    The balls stay as they are: those of repeated volumes would have no width. So an interval leaves out what the choice
    of the other set contributes.
    """
    found = judged(real, fake, k)
    rng = np.random.default_rng(seed)
    return {
        name: percentile_interval([rng.choice(values, len(values)).mean() for _ in range(n_boot)])
        for name, values in found.items()
    }
