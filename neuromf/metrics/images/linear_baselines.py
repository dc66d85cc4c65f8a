"""Reconstruction by the mean training image and by PCA: what an autoencoder with d latent numbers must beat.

Arrays are (N, F): N images of F numbers. PCA is computed from inner products of images, since N is far below F: with
the Gram matrix G = X X^T = U diag(w) U^T of centred training images, the projection of a centred image v on component
j is (u_j . X v) / sqrt(w_j).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**20  # numbers per image that are centred at a time


class Baseline(NamedTuple):
    """One row of a table of reconstruction errors."""

    model: str
    mse: float


def linear_baselines(train: NDArray, val: NDArray, n_components: int) -> list[Baseline]:
    """Mean squared errors on `val` of the mean training image and of PCA with d components.

    Arguments:
        train: Training images, shape (N, F).
        val: Validation images, shape (M, F).
        n_components: d; at most N - 1 are used.

    Raises:
        ValueError: If there are fewer than two training images, or shapes differ.
    """
    if len(train) < 2 or train.shape[1:] != val.shape[1:]:
        raise ValueError(f"baselines need two training images of the size of val; got {train.shape} and {val.shape}")
    gram, cross, squared = _inner_products(train, val)
    values, vectors = np.linalg.eigh(gram)
    used = min(n_components, len(train) - 1)
    values, vectors = values[::-1][:used], vectors[:, ::-1][:, :used]
    positive = values > 1e-10 * max(values[0], 1e-30)
    explained = ((cross @ vectors[:, positive]) ** 2 / values[positive]).sum(1)
    rows = {"mean image": squared, f"PCA {used}": squared - explained}
    return [Baseline(name, float(error.mean()) / train.shape[1]) for name, error in rows.items()]


def _inner_products(train: NDArray, val: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """X X^T (N, N), V X^T (M, N) and |v|^2 (M,) of images minus the mean training image; float64."""
    gram, cross = np.zeros((len(train), len(train))), np.zeros((len(val), len(train)))
    squared = np.zeros(len(val))
    for start in range(0, train.shape[1], CHUNK):
        x = train[:, start : start + CHUNK].astype(np.float64)
        mean = x.mean(0)
        x, v = x - mean, val[:, start : start + CHUNK] - mean
        gram, cross, squared = gram + x @ x.T, cross + v @ x.T, squared + (v**2).sum(1)
    return gram, cross, squared


def compare_with_baselines(mse: float, baselines: list[Baseline]) -> str:
    """Statement whether the error of an autoencoder is below that of every baseline."""
    better = [f"{row.model} ({row.mse:.4f})" for row in baselines if row.mse <= mse]
    if better:
        return f"the autoencoder (MSE {mse:.4f}) does not beat {', '.join(better)}: train longer, or see its verdict"
    return f"the autoencoder (MSE {mse:.4f}) beats {', '.join(f'{row.model} ({row.mse:.4f})' for row in baselines)}"
