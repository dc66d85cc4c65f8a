"""Tests over seeds, effect sizes, equivalence and Pareto front of the arms of an ablation.

A value is one number of one run, such as the Fréchet distance at NFE 1; a group holds the values of an arm, one per
seed. With fewer than FEWEST seeds there is no test: the row has a note, and its p-value is NaN.

References:
    The generalization of "Student's" problem (Welch, 1947)
    Comparing individual means in the analysis of variance (Tukey, 1949)
    A comparison of the two one-sided tests procedure (Schuirmann, 1987)
    Distribution theory for Glass's estimator of effect size (Hedges, 1981)
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

FEWEST = 3  # values per group for a test; two values give a variance with one degree of freedom


def check_values(values: ArrayLike, name: str) -> NDArray:
    """Values of one group as a finite float64 array, shape (n,)."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"{name} must be one finite number per seed, at least one; got {x.tolist()}")
    return x


def too_few(*groups: NDArray) -> str:
    """Reason why there is no test, or ""."""
    fewest = min(map(len, groups))
    return f"no test: {fewest} of at least {FEWEST} seeds" if fewest < FEWEST else ""


def welch(a: ArrayLike, b: ArrayLike) -> dict:
    """Welch's t-test of two arms: mean of a minus mean of b, its 95 % interval and p-value, and Hedges' g.

    Arguments:
        a: Values of one arm over seeds, shape (n,).
        b: Values of the other arm, shape (m,).

    Returns:
        A row: n_a, n_b, difference, low, high, statistic, p, effect, effect_low, effect_high and note.
    """
    a, b = check_values(a, "a"), check_values(b, "b")
    row = {"n_a": len(a), "n_b": len(b), "difference": a.mean() - b.mean(), "note": too_few(a, b)}
    if row["note"]:
        return row | dict.fromkeys(("low", "high", "statistic", "p", "effect", "effect_low", "effect_high"), np.nan)
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    row |= {"low": low, "high": high, "statistic": test.statistic, "p": test.pvalue}
    return row | dict(zip(("effect", "effect_low", "effect_high"), hedges(a, b), strict=True))


def hedges(a: NDArray, b: NDArray) -> tuple[float, float, float]:
    """Hedges' g (bias-corrected difference of means in pooled standard deviations) and its 95 % interval."""
    if not (a.std() + b.std()):
        return np.nan, np.nan, np.nan  # undefined without spread
    g, variance = effectsize_smd(a.mean(), a.std(ddof=1), len(a), b.mean(), b.std(ddof=1), len(b))
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    return float(g), float(g - half), float(g + half)


def equivalence(a: ArrayLike, b: ArrayLike, margin: float) -> dict:
    """Two one-sided Welch tests (TOST): small p if the means differ by less than `margin`.

    Arguments:
        a: Values of one arm over seeds, shape (n,).
        b: Values of the other arm, shape (m,).
        margin: Largest irrelevant difference, in the unit of the values.

    Returns:
        A row: n_a, n_b, difference, margin, p and note.
    """
    a, b = check_values(a, "a"), check_values(b, "b")
    if not margin > 0:
        raise ValueError(f"margin must be above 0; got {margin}")
    row = {"n_a": len(a), "n_b": len(b), "difference": a.mean() - b.mean(), "margin": margin, "note": too_few(a, b)}
    if row["note"]:
        return row | {"p": np.nan}
    both = CompareMeans(DescrStatsW(a), DescrStatsW(b))
    return row | {"p": float(both.ttost_ind(-margin, margin, usevar="unequal")[0])}


def anova(groups: Mapping[str, ArrayLike]) -> dict:
    """One-way analysis of variance over arms.

    Arguments:
        groups: Values over seeds by arm, at least two arms.

    Returns:
        A row: groups, n, statistic, p and note.
    """
    values = _check_groups(groups)
    row = {"groups": len(values), "n": sum(map(len, values.values())), "note": too_few(*values.values())}
    if row["note"]:
        return row | {"statistic": np.nan, "p": np.nan}
    test = stats.f_oneway(*values.values())
    return row | {"statistic": float(test.statistic), "p": float(test.pvalue)}


def tukey(groups: Mapping[str, ArrayLike]) -> list[dict]:
    """Tukey's honest significant difference test, a row per pair of arms; p-values are corrected for all pairs.

    Arguments:
        groups: Values over seeds by arm, at least two arms.

    Returns:
        Rows of a, b, difference, low, high, p and note.
    """
    values = _check_groups(groups)
    note, pairs = too_few(*values.values()), list(combinations(range(len(values)), 2))
    names, columns = list(values), list(values.values())
    test = None if note else stats.tukey_hsd(*columns)
    ends = test.confidence_interval(0.95) if test else None
    rows = []
    for i, j in pairs:
        row = {"a": names[i], "b": names[j], "difference": columns[i].mean() - columns[j].mean(), "note": note}
        found = (ends.low[i, j], ends.high[i, j], test.pvalue[i, j]) if test and ends else (np.nan,) * 3
        rows.append(row | dict(zip(("low", "high", "p"), map(float, found), strict=True)))
    return rows


def _check_groups(groups: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    if len(groups) < 2:
        raise ValueError(f"groups must hold at least two arms; got {list(groups)}")
    return {name: check_values(values, name) for name, values in groups.items()}


def corrected(p_values: Sequence[float], method: str = "holm") -> NDArray:
    """P-values after correction for multiple testing; NaN values are not counted and stay NaN."""
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.isfinite(p)
    result = np.full(len(p), np.nan)
    if tested.any():
        result[tested] = multipletests(p[tested], method=method)[1]
    return result


def pareto(lower: ArrayLike, higher: ArrayLike) -> NDArray:
    """Pareto-optimal points: no other point is at least as good in both values and better in one.

    Arguments:
        lower: Values to minimise, such as Fréchet distances, shape (n,).
        higher: Values to maximise, such as similarities, shape (n,).

    Returns:
        Booleans, shape (n,).
    """
    lower, higher = check_values(lower, "lower"), check_values(higher, "higher")
    no_worse = (lower[:, None] <= lower) & (higher[:, None] >= higher)  # [i, j]: i is no worse than j
    better = (lower[:, None] < lower) | (higher[:, None] > higher)
    return np.logical_not((no_worse & better).any(axis=0))
