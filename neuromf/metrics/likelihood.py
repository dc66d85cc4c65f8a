"""Bits per focus: mean log2 of a normalised rate at the foci of studies; intervals over studies; mixing weights.

A rate is a probability per voxel of the mask: it sums to 1, and a uniform rate over V voxels scores -log2 V. Every
model is scored in one way: its maps are floored and normalised (`normalised_rate`), mixed with the global rate (`mix`)
by a weight chosen on validation studies (`choose_weight`), and read at the foci of test studies (`bits_per_focus`). The
score of a set of studies is the mean over all foci, so studies are resampled with their foci.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

FLOOR = 1e-6  # of maps, before they are normalised
WEIGHTS = tuple(np.round(np.linspace(0, 1, 21), 2).tolist())


class Score(NamedTuple):
    """A mean over foci with its 95 % bootstrap interval over studies."""

    value: float
    low: float
    high: float


def normalised_rate(maps: ArrayLike, floor: float = FLOOR) -> NDArray[np.float64]:
    """Rates (..., V) that sum to 1, from maps (..., V) floored at `floor`.

    Raises:
        ValueError: If a map is not finite.
    """
    values = np.maximum(np.asarray(maps, np.float64), floor)
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(np.atleast_2d(values)).all(1))
        raise ValueError(f"maps must be finite; rows {rows[:5].tolist()} hold NaN or infinity")
    return values / values.sum(-1, keepdims=True)


def mix(rate: NDArray, global_rate: NDArray, weight: float) -> NDArray:
    """weight * rate + (1 - weight) * global_rate; rates (..., V)."""
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie between 0 and 1; got {weight}")
    return weight * rate + (1 - weight) * global_rate


def at_foci(rate: NDArray, counts: sparse.csr_matrix) -> NDArray:
    """Rate at each stored entry of counts (n_studies, V); rate (n_studies, V), or (V,) for all studies."""
    if rate.ndim == 1:
        return rate[counts.indices]
    return rate[np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), counts.indices]


def bits_per_focus(log2_rate: NDArray, counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Mean log2 rate over the foci of each study, shape (n_studies,); NaN for studies without foci.

    Arguments:
        log2_rate: log2 of rates, shape (n_studies, V), or (V,) for all studies.
        counts: Number of foci of each study in each voxel, shape (n_studies, V).
    """
    return _study_mean(at_foci(log2_rate, counts), counts)


def _study_mean(values: NDArray, counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Mean over foci of values at the stored entries of counts, per study."""
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    total = np.bincount(rows, values.astype(np.float64) * counts.data, counts.shape[0])
    with np.errstate(invalid="ignore"):
        return total / n_foci(counts)


def n_foci(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Number of foci of each study, shape (n_studies,)."""
    return np.asarray(counts.sum(1), np.float64).ravel()


def mean_over_foci(bits: NDArray, n: NDArray) -> float:
    """Mean over all foci of study means (n_studies,) with n foci each; studies without foci do not count."""
    known = n > 0
    return float((bits[known] * n[known]).sum() / n[known].sum())


def choose_weight(
    rates: NDArray, global_rate: NDArray, counts: sparse.csr_matrix, weights: Sequence[float] = WEIGHTS
) -> float:
    """Mixing weight of `weights` with the most bits per focus; give validation studies.

    Arguments:
        rates: Rates of a model, shape (n_studies, V).
        global_rate: Rate of all training foci, shape (V,).
    """
    own, shared = at_foci(rates, counts), at_foci(global_rate, counts)
    scores = [float((np.log2(mix(own, shared, weight)) * counts.data).sum()) for weight in weights]
    return float(weights[int(np.argmax(scores))])


def score(bits: NDArray, n: NDArray, *, n_boot: int = 1000, seed: int = 0) -> Score:
    """Mean over foci and its 95 % percentile interval; studies are resampled with all their foci.

    Arguments:
        bits: Mean per study, shape (n_studies,); or the difference of two such means of the same studies, which gives a
            paired interval.
        n: Foci per study, shape (n_studies,).
    """
    known = n > 0
    total, n = bits[known] * n[known], n[known]
    drawn = np.random.default_rng(seed).integers(len(n), size=(n_boot, len(n)))
    means = total[drawn].sum(1) / n[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(float(total.sum() / n.sum()), float(low), float(high))
