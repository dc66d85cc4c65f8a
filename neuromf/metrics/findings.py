"""Findings of ablations: Holm's correction, a verdict and one sentence per row of `ablations.compare`."""

from collections.abc import Callable

import numpy as np

from neuromf.metrics import statistics

ALPHA = 0.05  # significance level after correction
TESTS = ("difference", "equivalence", "variance")  # covered by Holm's correction


def add_findings(rows: list[dict]) -> list[dict]:
    """The rows with p_holm, verdict and finding."""
    corrected = statistics.corrected([row.get("p", np.nan) if row["question"] in TESTS else np.nan for row in rows])
    rows = [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]
    variance = {row["ablation"]: row["p_holm"] for row in rows if row["question"] == "variance"}
    for row in rows:
        if row["question"] == "pair":
            row["p_holm"] = np.maximum(row.get("p", np.nan), variance[row["ablation"]])
        verdict, finding = FINDINGS[row["question"]](row)
        absent = f"; missing: {', '.join(row['absent'])}" if row["absent"] else ""
        row |= {"verdict": verdict, "finding": finding + absent}
    return rows


def _no_test(row: dict) -> str:
    """Reason why there is no p-value, or ""."""
    return "" if np.isfinite(row["p_holm"]) else row["note"] or "no test: values without spread"


def _means(row: dict) -> str:
    return ", ".join(f"{row[k]} {row[f'mean_{k}']:.3g}" for k in "ab" if np.isfinite(row.get(f"mean_{k}", np.nan)))


def _test(row: dict, verdict: str, significant: str, otherwise: str, numbers: str) -> tuple[str, str]:
    """Verdict and sentence of a test."""
    numbers = f"{numbers}, p = {row['p_holm']:.2g} after correction"
    if row["p_holm"] < ALPHA:
        return verdict, f"{significant}: {numbers}"
    return "not significant", f"{otherwise}: {numbers}"


def _difference(row: dict) -> tuple[str, str]:
    if note := _no_test(row):
        means = _means(row)
        return "no test", f"{note} ({means})" if means else note
    numbers = f"{_means(row)}, difference {row['difference']:.3g} (95 % {row['low']:.3g} to {row['high']:.3g})"
    if "effect" in row:
        numbers += f", Hedges' g {row['effect']:.2g} ({row['effect_low']:.2g} to {row['effect_high']:.2g})"
    return _test(row, "different", "different", "no significant difference", numbers)


def _equivalence(row: dict) -> tuple[str, str]:
    within = f"within {100 * row['fraction']:.3g} % of {row['b']}'s mean"
    if note := _no_test(row):
        return "no test", f"{note} (of equivalence {within})"
    numbers = f"{_means(row)}, margin {row['margin']:.3g}"
    return _test(row, "equivalent", f"equivalent {within}", f"equivalence {within} not significant", numbers)


def _variance(row: dict) -> tuple[str, str]:
    if note := _no_test(row):
        return "no test", note
    excluded = f" (without {', '.join(row['excluded'])}: too few seeds)" if row["excluded"] else ""
    numbers = f"{row['groups']} arms{excluded}, F = {row['statistic']:.3g}"
    return _test(row, "different", "arms differ", "no significant difference of arms", numbers)


def _pareto_front(row: dict) -> tuple[str, str]:
    optimal = row["verdict"] == "Pareto-optimal"
    text = "no arm is better in both" if optimal else "another arm is as good in both and better in one"
    return row["verdict"], f"{text}: distance {row['mean_a']:.3g}, similarity {row['mean_b']:.3g}"


def _one_step(row: dict) -> tuple[str, str]:
    if not row["ratios"]:
        return "no values", "no distances at NFE 1 and at another NFE"
    each = ", ".join(f"{ratio:.3g}" for ratio in row["ratios"])
    return (
        "ratio",
        f"{row['mean_a']:.3g} times the distance at the best other NFE, {row['b']} (by seed: {each}; no test)",
    )


def _cost(row: dict) -> tuple[str, str]:
    if not np.isfinite(row["difference"]):
        return "not recorded", "the training time is not recorded"
    ratio = row["mean_a"] / row["mean_b"]
    numbers = f"{row['a']} {row['mean_a']:.4g} s, {row['b']} {row['mean_b']:.4g} s, ratio {ratio:.3g}"
    if abs(ratio - 1) <= row["fraction"]:
        return "equal time", f"equal training time: {numbers}"
    return "unequal time", f"unequal training time: {numbers}"


FINDINGS: dict[str, Callable[[dict], tuple[str, str]]] = {
    "difference": _difference,
    "equivalence": _equivalence,
    "variance": _variance,
    "pair": _difference,
    "pareto_front": _pareto_front,
    "one_step": _one_step,
    "cost": _cost,
}
