"""Ablations: one table of the metrics of all arms and seeds, and statistics over seeds.

A member is one run of an ablation: (arm, seed, run); a run may be a member of several ablations. A member without
metrics has one row without a metric, so that it can be reported as missing. Distances are better when smaller; they are
compared only for equal features and equal numbers of volumes. Tests use the distance of one-step samples (NFE 1), the
claim of the study, one value per seed.

The statistics are rows of columns RESULTS, by `question`:
    difference, equivalence  Welch's test and two one-sided tests of the two arms of an ablation
    cost                     training seconds of the two arms; equal if they differ by the margin at most
    variance, pair           analysis of variance of three or more arms, and Tukey's test of each pair
    pareto_front             distance (mean_a) and similarity (mean_b) of an arm
    one_step                 distance at NFE 1 over the distance at the best other NFE (mean_a)
"""

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from neuromf.core.files import atomic_write
from neuromf.metrics import statistics
from neuromf.metrics.findings import add_findings
from neuromf.metrics.table import COLUMNS, SAMPLES, TEXT, read_rows, select_set

logger = logging.getLogger(__name__)

MEMBER = ["ablation", "arm", "seed", "run"]
COST = ["seconds", "peak_mb"]  # of the training, from the card of the run
RESULTS = [
    *("ablation", "question", "metric", "features", "nfe", "a", "b", "n_a", "n_b", "mean_a", "mean_b"),
    *("difference", "low", "high", "statistic", "p", "p_holm", "effect", "effect_low", "effect_high", "margin"),
    *("verdict", "finding"),
]


class Metric(NamedTuple):
    """A metric of a table. The goal of a similarity is "higher", or "real": as near as possible to test scans."""

    metric: str
    features: str = ""
    goal: str = "higher"


# --- tables ------------------------------------------------------------------------------------------


def join_arms(
    *,
    ablation: str,
    arms: Sequence[tuple[str, int, str]],
    runs: Sequence[Path],
    out: Path,
    reference: Path | None = None,
) -> None:
    """Write the table of `gather` (csv), and log the missing arms."""
    table = gather(ablation, arms, runs, reference)
    write_rows(table, out)
    if absent := missing(table):
        logger.warning("%s lacks %s", out, ", ".join(absent))


def gather(
    ablation: str, arms: Sequence[tuple[str, int, str]], runs: Sequence[Path], reference: Path | None = None
) -> pd.DataFrame:
    """Metrics and training cost of all members of an ablation.

    Arguments:
        ablation: Name of the ablation.
        arms: Arm, seed and run of each member.
        runs: Files {run}/metrics.csv and {run}/card.json of the runs; missing files are missing members.
        reference: Table of the reference (csv); its rows of test scans are added to every run with metrics.

    Returns:
        Columns ablation, arm, seed, run, set, nfe, metric, features, n, value, low, high, seconds and peak_mb. A member
        without metrics is one row in which set to high are empty.

    Raises:
        ValueError: If the metrics in the folder of a run belong to another run.
    """
    tables, known = [], select_set(read_rows(reference), "test") if reference else None
    files = {(path.parent.name, path.name): path for path in runs}
    for arm, seed, run in arms:
        rows = _metrics(files.get((run, "metrics.csv")), run)
        if known is not None and rows["metric"].any():
            rows = pd.concat([rows, known])
        card = files.get((run, "card.json"))
        cost = json.loads(card.read_text()) if card else {}
        cost = {name: cost.get(name, np.nan) for name in COST}
        tables.append(rows.assign(ablation=ablation, arm=arm, seed=seed, run=run, **cost))
    return pd.concat(tables, ignore_index=True)[MEMBER + COLUMNS + COST]


def _metrics(path: Path | None, run: str) -> pd.DataFrame:
    """Rows of one run, or one empty row if there are none."""
    rows = read_rows(path) if path else pd.DataFrame()
    if rows.empty:
        return pd.DataFrame([{name: "" if name in TEXT else np.nan for name in COLUMNS}]).astype({"nfe": "Int64"})
    if others := set(rows["run"]) - {run}:
        raise ValueError(f"{path} must hold the run {run}; got {', '.join(sorted(others))}: evaluate the run again")
    return rows


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Write a table (csv), atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")


def missing(table: pd.DataFrame) -> list[str]:
    """Arms without metrics as text, each with its seeds."""
    groups = table[table["metric"] == ""].groupby("arm", sort=False)["seed"]
    return [f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in groups]


def select_metric(table: pd.DataFrame, wanted: Metric) -> pd.DataFrame:
    """Rows of one metric.

    Raises:
        ValueError: If the table has other metrics only, or two values of this one for one set of volumes.
    """
    rows = table[(table["metric"] == wanted.metric) & (table["features"] == wanted.features)]
    others = table[table["metric"] != ""]
    if rows.empty and len(others):
        names = {f"{m}:{f}".rstrip(":") for m, f in zip(others["metric"], others["features"], strict=True)}
        raise ValueError(
            f"no row has the metric {wanted.metric!r} of features {wanted.features!r}; "
            f"there are {' '.join(sorted(names))}"
        )
    if twice := rows[rows.duplicated(["arm", "seed", "set", "nfe"])].to_dict("records"):
        first = twice[0]
        raise ValueError(f"{wanted.metric} of {first['arm']}, seed {first['seed']}, NFE {first['nfe']} occurs twice")
    return rows


def values_by_arm(rows: pd.DataFrame, nfe: int = 1) -> dict[str, np.ndarray]:
    """Values over seeds of each arm at one NFE; arms without values are left out."""
    return {arm: part["value"].to_numpy() for arm, part in select_set(rows, nfe).groupby("arm", sort=False)}


# --- statistics --------------------------------------------------------------------------------------


def compare_arms(
    *,
    tables: Sequence[Path],
    out: Path,
    distance: Mapping[str, str],
    similarity: Mapping[str, str],
    margin: float,
    base: Mapping[str, str] | None = None,
) -> None:
    """Write the statistics of all ablations (`compare`) to one table, and log the findings.

    Arguments:
        tables: Tables of `join_arms`.
        out: Table of the statistics (csv).
        distance: metric and features of the tested distance.
        similarity: metric, features and goal ("higher" or "real") of the second axis of the Pareto front.
        margin: Largest irrelevant difference, as a fraction of the base arm's mean distance.
        base: Base arm by ablation; default: the first arm.
    """
    metrics = {"distance": Metric(**distance), "similarity": Metric(**similarity)}
    results = compare([read_rows(path) for path in tables], margin=margin, base=base, **metrics)
    write_rows(results, out)
    for row in results[~results["question"].isin(["pair", "pareto_front"])].to_dict("records"):
        logger.info("%s, %s of %s: %s", row["ablation"], row["question"], row["a"], row["finding"])


def compare(
    tables: Sequence[pd.DataFrame],
    *,
    distance: Metric,
    similarity: Metric,
    margin: float,
    base: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Statistics of all ablations, a row per test, ratio and arm of a front.

    Two arms are compared with Welch's t-test and two one-sided tests; three or more with an analysis of variance,
    Tukey's test and the Pareto front of distance and similarity. Holm's correction covers the difference, equivalence
    and variance tests of all tables. Tukey's p-values are already corrected for the pairs of their ablation; they are
    raised to the p-value of the analysis of variance that they follow.

    Arguments:
        tables: Tables of `gather`, one per ablation.
        distance: The tested distance; smaller is better.
        similarity: Second axis of the Pareto front.
        margin: Largest irrelevant difference, as a fraction of the base arm's mean distance.
        base: Base arm by ablation; default: the first arm.

    Returns:
        Columns RESULTS.
    """
    base, rows = base or {}, []
    for table in tables:
        name, arms = table["ablation"].iloc[0], list(dict.fromkeys(table["arm"]))
        reference = base.get(name, arms[0])
        if reference not in arms:
            raise ValueError(f"the base of {name} must be one of its arms {', '.join(arms)}; got {reference}")
        distances = select_metric(table, distance)
        if len(arms) == 1:
            tests = [{"question": "difference", "a": arms[0], "note": "no test: one arm"}]
        elif len(arms) == 2:
            other = next(arm for arm in arms if arm != reference)
            tests = _two_arms(table, distances, other, reference, margin)
        else:
            tests = _many_arms(table, distances, arms, similarity)
        tests += [_one_step(distances, arm) for arm in arms]
        common = {"ablation": name, "metric": distance.metric, "features": distance.features, "nfe": 1}
        rows += [{**common, "fraction": margin, "absent": _absent(table, test), **test} for test in tests]
    return pd.DataFrame(add_findings(rows)).reindex(columns=RESULTS)


def _absent(table: pd.DataFrame, test: dict) -> list[str]:
    """Members without metrics among the arms of a test."""
    if test["question"] in ("variance", "pareto_front"):
        return missing(table)
    return missing(table[table["arm"].isin([test["a"], test.get("b", "")])])


def _two_arms(table: pd.DataFrame, distances: pd.DataFrame, a: str, b: str, margin: float) -> list[dict]:
    """Rows difference, equivalence and cost."""
    values, note = values_by_arm(distances), _no_test(distances, [a, b])
    means = {"a": a, "b": b, "note": note, **_means(values, a, b)}
    difference, equivalence = {"question": "difference", **means}, {"question": "equivalence", **means}
    if not note:
        difference |= statistics.welch(values[a], values[b])
        equivalence |= statistics.equivalence(values[a], values[b], margin * abs(values[b].mean()))
    runs = table.drop_duplicates(["arm", "seed"]).dropna(subset="seconds")
    seconds = {arm: part.to_numpy() for arm, part in runs.groupby("arm")["seconds"]}
    cost = {"question": "cost", "metric": "seconds", "features": "", "nfe": None, "a": a, "b": b}
    return [difference, equivalence, cost | _means(seconds, a, b)]


def _many_arms(table: pd.DataFrame, distances: pd.DataFrame, arms: list[str], similarity: Metric) -> list[dict]:
    """Rows variance, pair and pareto_front; arms with too few seeds are not tested."""
    values = values_by_arm(distances)
    enough = [arm for arm in arms if len(values.get(arm, ())) >= statistics.FEWEST]
    tested = enough if len(enough) > 1 else arms
    note, excluded = _no_test(distances, tested), [arm for arm in arms if arm not in tested]
    variance = {"question": "variance", "a": "all", "note": note, "excluded": excluded}
    pairs = {(a, b): {"note": note or _no_test(distances, [a, b])} for a, b in combinations(arms, 2)}
    if not note:
        groups = {arm: values[arm] for arm in tested}
        variance |= statistics.anova(groups)
        pairs |= {(row["a"], row["b"]): row for row in statistics.tukey(groups)}
    rows = [{"question": "pair", **row, "a": a, "b": b, **_means(values, a, b)} for (a, b), row in pairs.items()]
    return [variance, *rows, *pareto_front(table, distances, similarity)]


def _no_test(distances: pd.DataFrame, arms: list[str]) -> str:
    """Reason why arms cannot be tested at NFE 1, or ""."""
    rows = select_set(distances, 1)
    if absent := [arm for arm in arms if arm not in set(rows["arm"])]:
        return f"no test: no values of {', '.join(absent)}"
    if wrong := sorted(set(rows.loc[~np.isfinite(rows["value"]), "arm"])):
        return f"no test: the distance of {', '.join(wrong)} is not finite"
    if len(sizes := sorted(set(rows["n"].astype(int)))) > 1:
        return f"no test: distances of {' and '.join(map(str, sizes))} volumes are not comparable"
    return statistics.too_few(*(part.to_numpy() for _, part in rows.groupby("arm")["value"]))


def _means(values: Mapping[str, np.ndarray], a: str, b: str) -> dict:
    """Number of seeds and mean of two arms, and the difference of the means."""
    groups = [np.asarray(values.get(arm, ())) for arm in (a, b)]
    mean_a, mean_b = (group.mean() if len(group) else np.nan for group in groups)
    sizes = {"n_a": len(groups[0]), "n_b": len(groups[1])}
    return {**sizes, "mean_a": mean_a, "mean_b": mean_b, "difference": mean_a - mean_b}


def pareto_front(table: pd.DataFrame, distances: pd.DataFrame, similarity: Metric) -> list[dict]:
    """A row per arm with both values: mean distance, mean similarity, and whether no arm is better in both."""
    similarities = select_metric(table, similarity)
    by_arm = values_by_arm(distances)
    lower = {arm: values.mean() for arm, values in by_arm.items()}
    higher = {arm: values.mean() for arm, values in values_by_arm(similarities).items()}
    arms = [arm for arm in lower if np.isfinite(lower[arm] + higher.get(arm, np.nan))]
    if not arms:
        return []
    scores = np.array([higher[arm] for arm in arms])
    if similarity.goal == "real":
        scores = -abs(scores - value_of_test_scans(similarities))
    best = statistics.pareto([lower[arm] for arm in arms], scores)
    return [
        {"question": "pareto_front", "a": arm, "n_a": len(by_arm[arm]), "mean_a": lower[arm], "mean_b": higher[arm],
         "verdict": "Pareto-optimal" if optimal else "dominated"}
        for arm, optimal in zip(arms, best, strict=True)
    ]  # fmt: skip


def value_of_test_scans(rows: pd.DataFrame) -> float:
    """Mean value of test scans.

    Raises:
        ValueError: If the table has none.
    """
    values = select_set(rows, "test")["value"]
    if values.empty:
        raise ValueError(f"{rows['metric'].iloc[0]} has the goal real but no value of the set test; evaluate it again")
    return float(values.mean())


def _one_step(distances: pd.DataFrame, arm: str) -> dict:
    """Distance at NFE 1 over the distance at the NFE with the best mean over seeds, per seed and on average."""
    rows = distances[(distances["arm"] == arm) & (distances["set"] == SAMPLES)]
    seeds = rows.pivot(index="seed", columns="nfe", values="value").dropna()
    others = [nfe for nfe in seeds if nfe != 1]
    row = {"question": "one_step", "a": arm, "n_a": len(seeds), "ratios": []}
    if 1 not in seeds or not others or seeds.empty:
        return row
    best = seeds[others].mean().idxmin()
    ratios = seeds[1] / seeds[best]
    return row | {"b": f"NFE {int(best)}", "mean_a": ratios.mean(), "ratios": ratios.tolist()}
