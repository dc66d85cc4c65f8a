"""Canonical correlations between the latents of two models: fitted to training studies, measured on test studies.

Both latents are whitened on the training rows, and the canonical directions are the singular vectors of their
cross-covariance. The null distribution permutes the studies of the second model, in training and test rows apart.

Reference:
    Relations between two sets of variates (Hotelling, 1936), Biometrika
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RIDGE = 1e-6  # of the covariance, relative to its mean variance
N_TOP = 3


@dataclass(frozen=True)
class CCAResult:
    """Canonical correlations of two latents."""

    train: NDArray  # (k,), of training studies: biased upwards
    test: NDArray  # (k,), of test studies
    p_values: NDArray  # (k,), of the test correlations
    null_95: NDArray  # (k,), 95th percentile of the null distribution of each
    cross: NDArray  # (d_x, d_y), correlations of single dimensions over test studies, for a heat map


def whitening(x: NDArray) -> tuple[NDArray, NDArray]:
    """Mean (d,) and matrix (d, d) W such that (x - mean) W has covariance I."""
    mean = x.mean(0)
    covariance = np.cov(x - mean, rowvar=False).reshape(x.shape[1], x.shape[1])
    values, vectors = np.linalg.eigh(covariance + RIDGE * np.trace(covariance) / len(covariance) * np.eye(x.shape[1]))
    return mean, vectors / np.sqrt(values)


def canonical_correlations(
    x: ArrayLike, y: ArrayLike, split: ArrayLike, *, n_components: int = N_TOP, n_permutations: int = 200, seed: int = 0
) -> CCAResult:
    """The first canonical correlations of latents x (n, d_x) and y (n, d_y) of the same studies.

    Arguments:
        split: train, val or test of each study; val is not used.
        n_components: Number of canonical correlations.
        n_permutations: Permutations of the null distribution; 0 gives p-values of 1.
        seed: Seed of the permutations.

    Raises:
        ValueError: If rows differ, or a split has too few studies.
    """
    first, second, split = np.asarray(x, float), np.asarray(y, float), np.asarray(split)
    if not len(first) == len(second) == len(split):
        raise ValueError(f"latents and split must have the same rows; got {len(first)}, {len(second)}, {len(split)}")
    rows = [np.flatnonzero(split == name) for name in ("train", "test")]
    wanted = first.shape[1] + second.shape[1]
    if len(rows[0]) <= wanted or len(rows[1]) < 3:
        raise ValueError(f"more than {wanted} train and 3 test studies are needed; got {len(rows[0])}, {len(rows[1])}")
    white = []
    for z in (first, second):
        mean, matrix = whitening(z[rows[0]])
        white.append([(z[chosen] - mean) @ matrix for chosen in rows])
    (x_train, x_test), (y_train, y_test) = white
    train, test = _fit_and_test(x_train, y_train, x_test, y_test, n_components)
    random = np.random.default_rng(seed)
    null = np.array([_fit_and_test(x_train, random.permutation(y_train), x_test, random.permutation(y_test),
                                   n_components)[1] for _ in range(n_permutations)]).reshape(-1, len(test))  # fmt: skip
    p_values = (1 + (null >= test).sum(0)) / (1 + n_permutations)
    null_95 = np.quantile(null, 0.95, axis=0) if n_permutations else np.full(len(test), np.nan)
    cross = np.corrcoef(first[rows[1]], second[rows[1]], rowvar=False)[: first.shape[1], first.shape[1] :]
    return CCAResult(train, test, p_values, null_95, cross)


def _fit_and_test(
    x_train: NDArray, y_train: NDArray, x_test: NDArray, y_test: NDArray, n: int
) -> tuple[NDArray, NDArray]:
    """Correlations of the first n canonical variates in training and test rows of whitened latents."""
    u, values, vt = np.linalg.svd(x_train.T @ y_train / (len(x_train) - 1), full_matrices=False)
    a, b = x_test @ u[:, :n], y_test @ vt[:n].T
    return values[:n], np.array([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(a.shape[1])])
