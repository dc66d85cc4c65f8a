"""Tables 2 and 3, and that of any ablation: its arms at each number of evaluations, over seeds, and the findings.

What was not measured is missing: an arm without metrics keeps its row, so that nobody takes the table for whole.
"""

from collections.abc import Sequence

import pandas as pd

from neuromf.metrics.ablations import Metric, missing
from neuromf.metrics.table import nfe_values, select_set
from neuromf.report.tables.comparison import HEADS
from neuromf.report.tables.style import Column

NAMES = {"x": "x-prediction", "u": "u-prediction", "meanflow": "MeanFlow", "rectified": "Rectified Flow"}
REAL = "real people, held out"
SAID = ("difference", "equivalence", "variance", "one step", "cost")  # findings that stand under the table


def arms(
    table: pd.DataFrame, found: pd.DataFrame, shown: Sequence[Metric]
) -> tuple[pd.DataFrame, list[Column], list[str]]:
    """One row per arm and number of evaluations: mean over seeds and standard deviation of each metric, and the cost.

    Arguments:
        table: Rows of one ablation, as of `ablations.gather`.
        found: What its questions came to, as of `ablations.questions`.
        shown: Metrics that become columns, in this order.

    Returns:
        The table, its columns, and its notes.

    Raises:
        ValueError: If none of the metrics was measured.
    """
    measured = table[table["metric"] != ""]
    if measured.empty or not _picked(measured, shown[0]).any():
        raise ValueError(f"no row has the metric {shown[0].metric!r} of features {shown[0].features!r}")
    steps = nfe_values(measured)
    rows = [
        {"group": _evaluations(nfe), "name": NAMES.get(arm, arm), **_cells(part, nfe, shown)}
        for nfe in steps
        for arm, part in table.groupby("arm", sort=False)
    ]
    if (measured["set"] == "test").any():
        rows.append({"group": "Floor", "name": REAL, **_cells(measured, "test", shown)})
    return pd.DataFrame(rows), _columns(shown, {_evaluations(nfe) for nfe in steps}), _notes(table, found)


def _picked(rows: pd.DataFrame, metric: Metric) -> pd.Series:
    return (rows["metric"] == metric.metric) & (rows["features"] == metric.features)


def _evaluations(nfe: int) -> str:
    return f"{nfe} evaluation{'s' * (nfe != 1)}"


def _cells(rows: pd.DataFrame, which: str | int, shown: Sequence[Metric]) -> dict:
    """Numbers of seeds and volumes, mean and standard deviation of each metric, and mean seconds of training."""
    at = select_set(rows, which)
    first = at[_picked(at, shown[0])]
    cells = {"seeds": first["seed"].nunique(), "n": first["n"].min(), "seconds": _seconds(rows)}
    for metric in shown:
        values = at.loc[_picked(at, metric)].drop_duplicates("set" if which == "test" else "run")["value"]
        cells |= {_key(metric): values.mean(), f"{_key(metric)}_sd": values.std(ddof=1)}
    return cells


def _seconds(rows: pd.DataFrame) -> float:
    """Mean seconds of training over the runs."""
    return rows.drop_duplicates("run")["seconds"].mean()


def _key(metric: Metric) -> str:
    return f"{metric.metric} {metric.features}".strip()


def _columns(shown: Sequence[Metric], trained: set[str]) -> list[Column]:
    """What is printed; seeds, their spread and seconds belong to the groups of what was trained."""
    columns = [Column("name", "", kind="text"), Column("seeds", "seeds", kind="whole", groups=trained)]
    columns.append(Column("n", "volumes", kind="whole"))
    for metric in shown:
        head, factor = HEADS.get(metric.metric, ("MS-SSIM of pairs", 1))
        columns.append(Column(_key(metric), head, metric.features, factor=factor))
        columns.append(Column(f"{_key(metric)}_sd", "s.d.", "over seeds", factor=factor, groups=trained))
    return [*columns, Column("seconds", "training", "s", groups=trained)]


def _notes(table: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """What the questions of the ablation came to, and which arms are missing."""
    found = found.fillna({"a": "", "b": ""})
    asked = found[(found["ablation"] == table["ablation"].iloc[0]) & found["question"].isin(SAID)]
    notes = [
        f"{row['question'].capitalize()}, {' and '.join(filter(None, (row['a'], row['b'])))}: {row['finding']}."
        for row in asked.to_dict("records")
    ]
    absent = missing(table)
    return notes + ([f"Not measured: {', '.join(absent)}."] if absent else [])
