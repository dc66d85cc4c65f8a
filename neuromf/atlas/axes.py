"""Names of latent axes: an axis is named after a topic only if evidence on test studies supports it.

The best topic of an axis is that with the largest |Spearman correlation| on training studies. The axis gets its name
if the correlation on test studies exceeds a permutation null: the largest |correlation| over all axes after the rows of
the test latents are shuffled, which controls the error over axes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

PERMUTATIONS = 200
LEVEL = 0.05


def spearman(z: NDArray, topics: NDArray) -> NDArray[np.float64]:
    """Rank correlations (d, n_topics) of latents (n, d) with topic weights (n, n_topics); 0 for constant columns."""
    return _ranks(z).T @ _ranks(topics)


def _ranks(a: NDArray) -> NDArray[np.float64]:
    """Centred ranks (n, d) of each column with norm 1; 0 for constant columns."""
    ranks = rankdata(a, axis=0) - (len(a) + 1) / 2
    return ranks / np.maximum(np.linalg.norm(ranks, axis=0), 1e-12)


def annotate(
    z: NDArray, topics: NDArray, z_test: NDArray, topics_test: NDArray, words: Sequence[str], *,
    n_permutations: int = PERMUTATIONS, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """One row per axis: axis, topic, rho (test), purity, p, name.

    Arguments:
        z, z_test: Latents of training and test studies, (n, d) and (n_test, d).
        topics, topics_test: Topic weights, (n, n_topics) and (n_test, n_topics).
        words: Name of each topic.

    Returns:
        rho: correlation with the best topic on test studies. purity: its fraction of the sum of squared correlations
        with all topics. name: words of the topic, with - for a falling axis; empty if p > .05.
    """
    fitted, test = spearman(z, topics), spearman(z_test, topics_test)
    best = np.abs(fitted).argmax(1)
    axes = np.arange(len(best))
    sign = np.sign(fitted[axes, best])
    rho = test[axes, best]
    null = _null(z_test, topics_test, best, n_permutations, seed)
    p = (1 + (null[:, None] >= (rho * sign)[None]).sum(0)) / (1 + n_permutations)
    purity = rho**2 / np.maximum((test**2).sum(1), 1e-12)
    names = [f"{'-' if s < 0 else ''}{words[t]}" if q <= LEVEL else "" for t, s, q in zip(best, sign, p, strict=True)]
    return pd.DataFrame({"axis": axes, "topic": [words[t] for t in best], "rho": rho, "purity": purity, "p": p,
                         "name": names})  # fmt: skip


def _null(z: NDArray, topics: NDArray, best: NDArray, n_permutations: int, seed: int) -> NDArray[np.float64]:
    """Largest |correlation| over the axes with their best topics, of shuffled rows, (n_permutations,)."""
    random = np.random.default_rng([seed, 85])
    x, y = _ranks(z), _ranks(topics)[:, best]
    return np.array([np.abs((x[random.permutation(len(z))] * y).sum(0)).max() for _ in range(n_permutations)])


def stability(z: NDArray, others: Sequence[NDArray]) -> NDArray[np.float64]:
    """Mean over other runs of the |correlation| of each axis with its match, shape (d,).

    Arguments:
        z: Latents of one run, (n, d).
        others: Latents of the same studies from runs with other seeds, each (n, d).
    """
    from scipy.optimize import linear_sum_assignment

    found = np.zeros((len(others), z.shape[1]))
    for k, other in enumerate(others):
        d = z.shape[1]
        similarity = np.abs(np.corrcoef(z.T, other.T)[:d, d:])
        rows, columns = linear_sum_assignment(-similarity)
        found[k, rows] = similarity[rows, columns]
    return found.mean(0)
