"""Scores of forecasts with Gaussian uncertainty, and whether a model earns its place beside a simpler one.

Forecasts are of y = ln(V + 1 mm^3): `actual`, `mean` and `sd` have shape (N,), one entry per forecast. Patients are the
unit of intervals and tests, since forecasts of one patient depend on each other.

References:
    Strictly proper scoring rules, prediction, and estimation (Gneiting and Raftery, 2007), JASA 102:359
    Better bootstrap confidence intervals (Efron, 1987), JASA 82:171
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVELS = (0.5, 0.8, 0.9, 0.95)
N_RESAMPLES, N_PERMUTATIONS = 2000, 10_000
ALPHA = 0.05


def crps_gaussian(actual: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> NDArray:
    """Continuous ranked probability score of Gaussian forecasts: s (w (2 Phi(w) - 1) + 2 phi(w) - 1 / sqrt(pi))."""
    scale = np.asarray(sd, float)
    w = (np.asarray(actual, float) - mean) / scale
    return scale * (w * (2 * stats.norm.cdf(w) - 1) + 2 * stats.norm.pdf(w) - 1 / np.sqrt(np.pi))


def interval_score(actual: ArrayLike, low: ArrayLike, high: ArrayLike, alpha: float = ALPHA) -> NDArray:
    """Width of the central 1 - alpha interval plus 2 / alpha times the distance of values outside of it."""
    y, low, high = (np.asarray(values, float) for values in (actual, low, high))
    return high - low + 2 / alpha * (np.maximum(low - y, 0) + np.maximum(y - high, 0))


def gaussian_interval(mean: ArrayLike, sd: ArrayLike, level: float = 1 - ALPHA) -> tuple[NDArray, NDArray]:
    """Ends of the central interval of Gaussian forecasts that contains the value with probability `level`."""
    half = stats.norm.ppf(0.5 + level / 2) * np.asarray(sd, float)
    return np.asarray(mean, float) - half, np.asarray(mean, float) + half


def coverage(actual: ArrayLike, mean: ArrayLike, sd: ArrayLike, level: float = 1 - ALPHA) -> float:
    """Fraction of values in the central interval of their forecast."""
    low, high = gaussian_interval(mean, sd, level)
    y = np.asarray(actual, float)
    return float(((low <= y) & (y <= high)).mean())


def pit(actual: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> NDArray:
    """Probability integral transform, uniform on [0, 1] if forecasts are calibrated."""
    return stats.norm.cdf(np.asarray(actual, float), mean, sd)


def r_squared(actual: ArrayLike, mean: ArrayLike) -> float:
    """1 - SSE / SS about the mean of `actual`; it rewards knowing the baseline volume alone."""
    y = np.asarray(actual, float)
    total = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - mean) ** 2).sum() / total) if total else float("nan")


def skill(actual: ArrayLike, mean: ArrayLike, locf: ArrayLike) -> float:
    """1 - SSE / SSE of the last observation carried forward (LOCF)."""
    y = np.asarray(actual, float)
    return float(1 - ((y - mean) ** 2).sum() / ((y - locf) ** 2).sum())


def score(actual: NDArray, mean: NDArray, sd: NDArray, locf: NDArray, patients: ArrayLike) -> dict[str, float]:
    """All scores of one model as a row.

    Arguments:
        locf: Forecasts of LOCF, shape (N,).
        patients: Patient of each forecast, shape (N,).

    Raises:
        ValueError: If a forecast is not finite or a standard deviation is not above 0.
    """
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and (sd > 0).all()):
        bad = int((~np.isfinite(mean) | ~np.isfinite(sd) | ~(sd > 0)).argmax())
        raise ValueError(f"forecast {bad} is no Gaussian: mean {mean[bad]}, standard deviation {sd[bad]}")
    low, high = gaussian_interval(mean, sd)
    error = mean - actual
    volume = np.expm1(actual)
    relative = np.abs(np.expm1(mean) - volume)[volume > 0] / volume[volume > 0]
    return {
        "n": len(actual),
        "r2": r_squared(actual, mean),
        "skill": skill(actual, mean, locf),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "median_ape": float(100 * np.median(relative)),
        "r_patient": correlation_within(actual, mean, patients),
        **{f"cov{round(100 * level)}": coverage(actual, mean, sd, level) for level in LEVELS},
        "crps": float(crps_gaussian(actual, mean, sd).mean()),
        "is95": float(interval_score(actual, low, high).mean()),
        "width95": float((high - low).mean()),
        "calibration": float(sd.mean() / np.sqrt((error**2).mean())),
        "pit_ks": float(stats.kstest(pit(actual, mean, sd), "uniform").statistic),
    }


def correlation_within(actual: NDArray, mean: NDArray, patients: ArrayLike) -> float:
    """Mean over patients with at least three forecasts of the correlation of forecasts and values; NaN without any."""
    frame = pd.DataFrame({"actual": actual, "mean": mean, "patient": np.asarray(patients)})
    parts = [part for _, part in frame.groupby("patient") if len(part) >= 3]
    varying = [part for part in parts if part[["actual", "mean"]].std().min() > 1e-9]
    found = [part["actual"].corr(part["mean"]) for part in varying]
    return float(np.mean(found)) if found else float("nan")


def squared_errors(actual: NDArray, mean: NDArray, patients: ArrayLike) -> NDArray:
    """Summed squared error per patient, in the order of sorted patients."""
    return pd.Series((mean - actual) ** 2).groupby(np.asarray(patients)).sum().to_numpy(float)


def skill_gain(errors: NDArray, reference: NDArray, locf: NDArray, axis: int = -1) -> NDArray:
    """Skill of a model minus skill of a reference, from summed squared errors per patient (P,)."""
    return (reference - errors).sum(axis) / locf.sum(axis)


def bca_interval(errors: NDArray, reference: NDArray, locf: NDArray, *, seed: int = 0) -> tuple[float, float]:
    """95 % BCa bootstrap interval over patients of `skill_gain`; (0, 0) if both models make the same errors."""
    if np.array_equal(errors, reference):
        return 0.0, 0.0
    found = stats.bootstrap((errors, reference, locf), skill_gain, paired=True, vectorized=True, method="BCa",
                            n_resamples=N_RESAMPLES, rng=np.random.default_rng(seed), batch=200)  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(errors: NDArray, reference: NDArray, *, seed: int = 0) -> float:
    """Two-sided p of the paired sign-flip permutation test of the mean difference of errors per patient (P,)."""
    difference = reference - errors
    if not difference.any():
        return 1.0
    random = np.random.default_rng(seed)
    flips = random.choice((-1.0, 1.0), size=(N_PERMUTATIONS, len(difference)))
    exceed = np.abs(flips @ difference) >= abs(difference.sum()) - 1e-12
    return float((1 + exceed.sum()) / (1 + N_PERMUTATIONS))


def decide(errors: NDArray, reference: NDArray, locf: NDArray, *, seed: int = 0) -> dict[str, Any]:
    """Decision rule: a model earns its place only if its skill gain is above 0, p < .05 and the interval excludes 0.

    Arguments:
        errors, reference, locf: Summed squared errors per patient of the model, the simpler model and LOCF, (P,).
    """
    gain = float(skill_gain(errors, reference, locf))
    low, high = bca_interval(errors, reference, locf, seed=seed)
    p = sign_flip_p(errors, reference, seed=seed)
    return {"gain": gain, "low": low, "high": high, "p": p, "earned": bool(gain > 0 and p < ALPHA and low > 0)}
