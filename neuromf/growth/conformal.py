"""Conformal prediction intervals with patients as exchangeable units.

Residuals come from models that the patient was left out of. Residuals of the fit itself are too small, and intervals
made of them cover too little.

References:
    Predictive inference with the jackknife+ (Barber et al., 2021), Ann Stat 49:486
    Conditional validity of inductive conformal predictors (Vovk, 2012): the distribution of coverage
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from neuromf.growth.comparators import Comparator
from neuromf.growth.patient_effects import check_held_out
from neuromf.growth.protocols import Case, Trajectory, last_from_rest, split_folds


class LeftOut(NamedTuple):
    """What models that one fold of training patients was left out of forecast."""

    errors: NDArray  # of the left-out patient's case, (n,)
    sd: NDArray  # of that forecast, (n,)
    test: NDArray  # forecasts of the M test cases by the same model, (n, M)


def leave_out(
    build: Callable[[], Comparator], patients: Sequence[Trajectory], test: Sequence[Case], *, seed: int = 0,
    n_folds: int | None = None,
) -> LeftOut:  # fmt: skip
    """Refit without each fold of training patients, the last visit from the rest.

    Arguments:
        build: Makes an unfitted comparator.
        n_folds: Folds; None: leave one patient out for up to 60 patients (jackknife+), else 10 folds (CV+).
    """
    errors, spread, forecasts = [], [], []
    for rest, fold in split_folds(patients, seed, n_folds):
        cases, model = last_from_rest(fold), build().fit(rest)
        check_held_out(model.patients, (p.patient for p in fold))
        mean, sd = model.predict([*cases, *test])
        n = len(cases)
        errors.append(np.array([case.actual for case in cases]) - mean[:n])
        spread.append(sd[:n])
        forecasts.append(np.repeat(mean[None, n:], n, axis=0))
    return LeftOut(*map(np.concatenate, (errors, spread, forecasts)))


def jackknife_plus(left_out: LeftOut, alpha: float = 0.05) -> tuple[NDArray, NDArray]:
    """Ends of intervals of test cases (M,): quantiles over i of mu_{-i}(x) -+ |e_i|; infinite if n is too small."""
    size = np.abs(left_out.errors)[:, None]
    n = len(size)
    rank = math.ceil((1 - alpha) * (n + 1))
    if rank > n:
        return np.full(left_out.test.shape[1], -np.inf), np.full(left_out.test.shape[1], np.inf)
    low, high = np.sort(left_out.test - size, 0), np.sort(left_out.test + size, 0)
    return low[n - rank], high[rank - 1]


def normalised(left_out: LeftOut, mean: NDArray, sd: NDArray, alpha: float = 0.05) -> tuple[NDArray, NDArray]:
    """Ends of intervals mean -+ q sd of test cases (M,), q from the left-out scores |e_i| / sd_i."""
    scores = np.sort(np.abs(left_out.errors) / left_out.sd)
    rank = math.ceil((1 - alpha) * (len(scores) + 1))
    q = scores[rank - 1] if rank <= len(scores) else np.inf
    return mean - q * sd, mean + q * sd


def covered(actual: NDArray, low: NDArray, high: NDArray) -> float:
    """Fraction of values in their interval."""
    return float(((low <= actual) & (actual <= high)).mean())


def coverage_band(n: int, m: int, alpha: float = 0.05) -> tuple[float, float]:
    """95 % band of the coverage of m test cases by exact conformal intervals of n scores: beta-binomial."""
    below = math.ceil((1 - alpha) * (n + 1))
    low, high = stats.betabinom(m, below, max(n + 1 - below, 1e-9)).ppf([0.025, 0.975])
    return float(low) / m, float(high) / m


def observed_interval(coverage: float, n: int) -> tuple[float, float]:
    """Exact 95 % interval (Clopper-Pearson) of the true coverage, where `coverage` was observed in n cases."""
    hits = round(coverage * n)
    low, high = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    return float(low), float(high)
