"""From runs to findings: tidy rows of every arm and seed of an ablation, and what each question of the study came to.

A member is one run in the view of an ablation: (arm, seed, run); a run may serve several. A member without metrics has
one row without a metric, so that whoever reads the table can name it. Distances are better where they are smaller; they
depend on the features and on the number of volumes, and are compared only where both are the same.
Tests are made on the distance at one evaluation, the claim of the study, with one seed as one value.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from neuromf.core.files import atomic_write
from neuromf.metrics import statistics
from neuromf.metrics.table import COLUMNS, SAMPLES, TEXT, read_rows, select_set

ALPHA = 0.05  # of every test, after correction
WHO = ["ablation", "arm", "seed", "run"]
COST = ["seconds", "peak_mb"]  # of the training, from the card of the run
FOUND = [
    *("ablation", "question", "metric", "features", "nfe", "a", "b", "n_a", "n_b", "mean_a", "mean_b"),
    *("difference", "low", "high", "statistic", "p", "p_holm", "effect", "effect_low", "effect_high", "margin"),
    *("verdict", "finding"),
]


class Metric(NamedTuple):
    """Which rows of a table are meant. The goal of a similarity is "higher", or "real": as real people have it."""

    metric: str
    features: str = ""
    goal: str = "higher"


# --- rows --------------------------------------------------------------------------------------------


def gather(
    ablation: str, arms: Sequence[tuple[str, int, str]], folder: Path, reference: Path | None = None
) -> pd.DataFrame:
    """One table of all that was measured on the arms of an ablation, and what each run cost.

    Arguments:
        ablation: Its name, in every row.
        arms: The arm, seed and run of each member.
        folder: Where runs are: metrics.csv and card.json are read from the folder of each.
        reference: Metrics of real people, whose rows of the set "test" are put to those of every run that has some.

    Returns:
        Columns ablation, arm, seed, run, set, nfe, metric, features, n, value, low, high, seconds and peak_mb. A
        member whose metrics are not there is one row in which set to high are empty.

    Raises:
        ValueError: If the metrics in the folder of a run are those of another.
    """
    tables, known = [], read_rows(reference) if reference else None
    for arm, seed, run in arms:
        rows = _metrics(folder / run / "metrics.csv", run)
        if known is not None and rows["metric"].any():
            rows = pd.concat([rows, select_set(known, "test")])
        tables.append(rows.assign(ablation=ablation, arm=arm, seed=seed, run=run, **_cost(folder / run / "card.json")))
    return pd.concat(tables, ignore_index=True)[WHO + COLUMNS + COST]


def _metrics(path: Path, run: str) -> pd.DataFrame:
    """The rows of one run, or one row of nothing."""
    rows = read_rows(path) if path.is_file() else pd.DataFrame()
    if rows.empty:
        blank = {name: "" if name in TEXT else np.nan for name in COLUMNS}
        return pd.DataFrame([blank]).astype({"nfe": "Int64"})
    if strangers := set(rows["run"]) - {run}:
        raise ValueError(f"{path} must hold the run {run}; got {', '.join(sorted(strangers))}; measure the run again")
    return rows


def _cost(path: Path) -> dict[str, float]:
    """Seconds of training and peak memory (MB) of one run, NaN where its card does not say."""
    card = json.loads(path.read_text()) if path.is_file() else {}
    return {name: card.get(name, np.nan) for name in COST}


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Write a csv whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")


def missing(table: pd.DataFrame) -> list[str]:
    """Arms of a table that lack metrics, in words: each with the seeds that lack them."""
    groups = table[table["metric"] == ""].groupby("arm", sort=False)["seed"]
    return [f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in groups]


def of_metric(table: pd.DataFrame, wanted: Metric) -> pd.DataFrame:
    """The rows of one metric.

    Raises:
        ValueError: If anything was measured but this, or it stands twice for one set of volumes.
    """
    rows = table[(table["metric"] == wanted.metric) & (table["features"] == wanted.features)]
    measured = table[table["metric"] != ""]
    if rows.empty and len(measured):
        known = " ".join(
            sorted({f"{m}:{f}".rstrip(":") for m, f in zip(measured.metric, measured.features, strict=True)})
        )
        raise ValueError(f"no row has the metric {wanted.metric!r} of features {wanted.features!r}; there are {known}")
    if twice := rows[rows.duplicated(["arm", "seed", "set", "nfe"])].to_dict("records"):
        first = twice[0]
        raise ValueError(f"{wanted.metric} of {first['arm']}, seed {first['seed']}, nfe {first['nfe']} stands twice")
    return rows


def by_arm(rows: pd.DataFrame, nfe: int = 1) -> dict[str, np.ndarray]:
    """Values over seeds of each arm at one number of evaluations; arms without any are left out."""
    rows = select_set(rows, nfe)
    return {arm: part["value"].to_numpy() for arm, part in rows.groupby("arm", sort=False)}


# --- questions ---------------------------------------------------------------------------------------


def questions(
    tables: Sequence[pd.DataFrame],
    *,
    distance: Metric,
    similarity: Metric,
    margin: float,
    base: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """What each question of the study came to, one row per test, ratio and arm of a front.

    Two arms are compared by Welch's t-test and by two one-sided tests, three or more by analysis of variance, Tukey's
    differences and the Pareto front of distance and similarity. Holm's correction is over Welch's, equivalence and
    variance tests of all tables. Tukey's p-values are corrected for the pairs of their sweep already; they are raised
    to that of the analysis which they follow.

    Arguments:
        tables: What `gather` made, one per ablation.
        distance: What is tested, smaller is better.
        similarity: What stands against it on the front.
        margin: Largest difference that does not matter, as a share of the base arm's mean distance.
        base: The arm that the others are held against, by ablation; the first one where not given.

    Returns:
        Columns FOUND. Of a front, mean_a is the distance and mean_b the similarity of the arm; of one step against
        many, mean_a is the ratio; of cost, the means are seconds of training, equal where they differ by the margin
        at most.
    """
    base, rows = base or {}, []
    for table in tables:
        name = table["ablation"].iloc[0]
        arms = list(dict.fromkeys(table["arm"]))
        reference = base.get(name, arms[0])
        if reference not in arms:
            raise ValueError(f"the base of {name} must be one of its arms {', '.join(arms)}; got {reference}")
        found = of_metric(table, distance)
        if len(arms) == 1:
            asked = [{"question": "difference", "a": arms[0], "note": "no test: one arm, and nothing beside it"}]
        elif len(arms) == 2:
            other = next(arm for arm in arms if arm != reference)
            asked = _pair(table, found, other, reference, margin)
        else:
            asked = _sweep(table, found, arms, similarity)
        asked += [_one_step(found, arm) for arm in arms]
        about = {"ablation": name, "metric": distance.metric, "features": distance.features, "nfe": 1}
        rows += [{**about, "share": margin, "absent": _absent(table, row), **row} for row in asked]
    return _worded(rows)


def _absent(table: pd.DataFrame, row: dict) -> list[str]:
    """Members without metrics among those that a row is about: all arms of a sweep, or the two it names."""
    whole = row["question"] in ("variance", "front")
    return missing(table if whole else table[table["arm"].isin([row["a"], row.get("b", "")])])


def _pair(table: pd.DataFrame, found: pd.DataFrame, a: str, b: str, margin: float) -> list[dict]:
    """Rows of a question with two arms: difference, equivalence, cost."""
    values, note = by_arm(found), _no_test(found, [a, b])
    means = {"a": a, "b": b, "note": note, **_means(values, a, b)}
    difference, equivalence = {"question": "difference", **means}, {"question": "equivalence", **means}
    if not note:
        difference |= statistics.welch(values[a], values[b])
        equivalence |= statistics.equivalence(values[a], values[b], margin * abs(values[b].mean()))
    about = {"question": "cost", "metric": "seconds", "features": "", "nfe": None, "a": a, "b": b}
    return [difference, equivalence, about | _means(_seconds(table), a, b)]


def _sweep(table: pd.DataFrame, found: pd.DataFrame, arms: list[str], similarity: Metric) -> list[dict]:
    """Rows of a question with many arms: variance, pairs, front; arms with too few seeds stay out of the tests."""
    values = by_arm(found)
    enough = [arm for arm in arms if len(values.get(arm, ())) >= statistics.FEWEST]
    tested = enough if len(enough) > 1 else arms
    note, left = _no_test(found, tested), [arm for arm in arms if arm not in tested]
    variance = {"question": "variance", "a": "all", "note": note, "left": left}
    pairs = {(a, b): {"note": note or _no_test(found, [a, b])} for a, b in combinations(arms, 2)}
    if not note:
        groups = {arm: values[arm] for arm in tested}
        variance |= statistics.anova(groups)
        pairs |= {(row["a"], row["b"]): row for row in statistics.tukey(groups)}
    rows = [{"question": "pair", **row, "a": a, "b": b, **_means(values, a, b)} for (a, b), row in pairs.items()]
    return [variance, *rows, *front(table, found, similarity)]


def _no_test(found: pd.DataFrame, arms: list[str]) -> str:
    """Why arms cannot be tested against each other at one evaluation, or nothing."""
    rows = select_set(found, 1)
    if absent := [arm for arm in arms if arm not in set(rows["arm"])]:
        return f"no test: nothing measured of {', '.join(absent)}"
    if wrong := sorted(set(rows.loc[~np.isfinite(rows["value"]), "arm"])):
        return f"no test: the distance of {', '.join(wrong)} is not a number"
    if len(sizes := sorted(set(rows["n"].astype(int)))) > 1:
        return f"no test: distances of {' and '.join(map(str, sizes))} volumes are different numbers"
    return statistics.too_few(*(part.to_numpy() for _, part in rows.groupby("arm")["value"]))


def _means(values: Mapping[str, np.ndarray], a: str, b: str) -> dict:
    """Number of seeds and mean of each arm of a pair, and the difference of these, of whatever was measured."""
    groups = [np.asarray(values.get(arm, ())) for arm in (a, b)]
    mean_a, mean_b = (group.mean() if len(group) else np.nan for group in groups)
    sizes = {"n_a": len(groups[0]), "n_b": len(groups[1])}
    return {**sizes, "mean_a": mean_a, "mean_b": mean_b, "difference": mean_a - mean_b}


def _seconds(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Seconds of training of each arm, one value per run."""
    runs = table.drop_duplicates(["arm", "seed"]).dropna(subset="seconds")
    return {arm: part.to_numpy() for arm, part in runs.groupby("arm")["seconds"]}


def front(table: pd.DataFrame, found: pd.DataFrame, similarity: Metric) -> list[dict]:
    """One row per arm that has both: its mean distance, its mean similarity, and whether no arm beats it in both."""
    likeness = of_metric(table, similarity)
    lower = {arm: values.mean() for arm, values in by_arm(found).items()}
    higher = {arm: values.mean() for arm, values in by_arm(likeness).items()}
    arms = [arm for arm in lower if np.isfinite(lower[arm] + higher.get(arm, np.nan))]
    if not arms:
        return []
    means = np.array([higher[arm] for arm in arms])
    if similarity.goal == "real":
        means = -abs(means - of_real(likeness))
    best = statistics.pareto([lower[arm] for arm in arms], means)
    return [
        {"question": "front", "a": arm, "n_a": len(by_arm(found)[arm]), "mean_a": lower[arm], "mean_b": higher[arm],
         "verdict": "on the front" if on else "beaten"}
        for arm, on in zip(arms, best, strict=True)
    ]  # fmt: skip


def of_real(rows: pd.DataFrame) -> float:
    """The value of real people who were not trained on.

    Raises:
        ValueError: If they were not measured.
    """
    values = select_set(rows, "test")["value"]
    if values.empty:
        raise ValueError(f"{rows['metric'].iloc[0]} must be measured of real people (set test), since that is its goal")
    return float(values.mean())


def _one_step(found: pd.DataFrame, arm: str) -> dict:
    """Distance at one evaluation over that at the best other number of them: by mean over seeds, then seed by seed."""
    rows = found[(found["arm"] == arm) & (found["set"] == SAMPLES)]
    seeds = rows.pivot(index="seed", columns="nfe", values="value").dropna()
    others = [nfe for nfe in seeds if nfe != 1]
    row = {"question": "one step", "a": arm, "n_a": len(seeds), "ratios": []}
    if 1 not in seeds or not others or seeds.empty:
        return row
    best = seeds[others].mean().idxmin()
    ratios = seeds[1] / seeds[best]
    return row | {"b": f"{int(best)} evaluations", "mean_a": ratios.mean(), "ratios": ratios.tolist()}


# --- words -------------------------------------------------------------------------------------------


def _worded(rows: list[dict]) -> pd.DataFrame:
    """The rows with corrected p-values, a verdict and a sentence each."""
    corrected = statistics.corrected([_p(row) if row["question"] in TESTS else np.nan for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        row["p_holm"] = p
    variance = {row["ablation"]: row["p_holm"] for row in rows if row["question"] == "variance"}
    for row in rows:
        if row["question"] == "pair":
            row["p_holm"] = np.maximum(_p(row), variance[row["ablation"]])
        verdict, finding = WORDS[row["question"]](row)
        absent = f"; missing: {', '.join(row['absent'])}" if row["absent"] else ""
        row |= {"verdict": verdict, "finding": finding + absent}
    return pd.DataFrame(rows).reindex(columns=FOUND)


def _p(row: dict) -> float:
    return row.get("p", np.nan)


def _tested(row: dict) -> str:
    """Why there is no p-value, or nothing."""
    return "" if np.isfinite(row["p_holm"]) else row["note"] or "no test: values without spread"


def _said(row: dict) -> str:
    return ", ".join(f"{row[k]} {row[f'mean_{k}']:.3g}" for k in "ab" if np.isfinite(row.get(f"mean_{k}", np.nan)))


def _judged(row: dict, verdict: str, yes: str, no: str, about: str) -> tuple[str, str]:
    """Verdict and sentence of a test: what a small p-value says, or that it was not shown."""
    about = f"{about}, p = {row['p_holm']:.2g} after correction"
    return (verdict, f"{yes}: {about}") if row["p_holm"] < ALPHA else ("not shown", f"{no}: {about}")


def _difference(row: dict) -> tuple[str, str]:
    if note := _tested(row):
        means = _said(row)
        return "no test", f"{note} ({means})" if means else note
    about = f"{_said(row)}, difference {row['difference']:.3g} (95 % {row['low']:.3g} to {row['high']:.3g})"
    if "effect" in row:
        about += f", Hedges' g {row['effect']:.2g} ({row['effect_low']:.2g} to {row['effect_high']:.2g})"
    return _judged(row, "differs", "differs", "no difference shown", about)


def _equivalence(row: dict) -> tuple[str, str]:
    within = f"within {100 * row['share']:.3g} % of {row['b']}'s mean"
    if note := _tested(row):
        return "no test", f"{note} (asked: equivalent {within})"
    about = f"{_said(row)}, margin {row['margin']:.3g}"
    return _judged(row, "equivalent", f"equivalent {within}", f"not shown to be equivalent {within}", about)


def _variance(row: dict) -> tuple[str, str]:
    if note := _tested(row):
        return "no test", note
    left = f" (without {', '.join(row['left'])}: too few seeds)" if row["left"] else ""
    about = f"{row['groups']} arms{left}, F = {row['statistic']:.3g}"
    return _judged(row, "differs", "arms differ", "no difference of arms shown", about)


def _front(row: dict) -> tuple[str, str]:
    best = row["verdict"] == "on the front"
    about = "no arm beats it in both" if best else "another arm is as good in both and better in one"
    return row["verdict"], f"{about}: distance {row['mean_a']:.3g}, similarity {row['mean_b']:.3g}"


def _ratio(row: dict) -> tuple[str, str]:
    if not row["ratios"]:
        return "not measured", "nothing measured at one evaluation and at more of them"
    each = ", ".join(f"{ratio:.3g}" for ratio in row["ratios"])
    return "ratio", f"{row['mean_a']:.3g} times the distance at its best, {row['b']} (by seed: {each}; no test)"


def _cost_words(row: dict) -> tuple[str, str]:
    if not np.isfinite(row["difference"]):
        return "not recorded", "the cards of the runs do not say how long the training took"
    ratio = row["mean_a"] / row["mean_b"]
    about = f"{row['a']} {row['mean_a']:.4g} s, {row['b']} {row['mean_b']:.4g} s, {ratio:.3g} times as long"
    if abs(ratio - 1) <= row["share"]:
        return "equal time", f"equal training time: {about}"
    return "unequal time", f"not at equal training time: {about}"


TESTS = ("difference", "equivalence", "variance")  # what Holm's correction is over
WORDS = {
    "difference": _difference,
    "equivalence": _equivalence,
    "variance": _variance,
    "pair": _difference,
    "front": _front,
    "one step": _ratio,
    "cost": _cost_words,
}
