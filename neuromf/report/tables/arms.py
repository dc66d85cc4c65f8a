"""Tables 2 and 3: the arms of an ablation at each number of network evaluations (NFE), over seeds, with test results.

An arm without metrics keeps its row with missing values.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.figures import names
from neuromf.metrics.ablations import Metric, missing
from neuromf.metrics.table import nfe_values, read_rows, select_set
from neuromf.report.tables.style import Column, save

NOTED = ("difference", "equivalence", "variance", "one_step", "cost")  # test results under the table


def render(*, table: Path, questions: Path, out: Path, **config: Any) -> None:
    """Write the table of an ablation from its metrics and test results (csv), as of `neuromf.metrics.ablations`.

    Arguments:
        config: column_metrics (metrics of the columns, each with metric and features).
    """
    metrics = [Metric(**metric) for metric in config["column_metrics"]]
    save(*build(read_rows(table), read_rows(questions), metrics), out, config)


def build(
    table: pd.DataFrame, tests: pd.DataFrame, metrics: Sequence[Metric]
) -> tuple[pd.DataFrame, list[Column], list[str]]:
    """One row per arm and NFE: mean over seeds and standard deviation of each metric, and seconds of training.

    Arguments:
        table: Rows of one ablation, as of `neuromf.metrics.ablations.gather`.
        tests: Test results of ablations.
        metrics: Metrics of the columns; the first one gives the numbers of seeds and volumes.

    Returns:
        The table, its columns, and its notes.

    Raises:
        ValueError: If the first metric was not measured.
    """
    known = table[table["metric"] != ""]
    if _of_metric(known, metrics[0]).empty:
        raise ValueError(f"no row has the metric {metrics[0].metric!r} of features {metrics[0].features!r}")
    groups = {nfe: f"{nfe} network evaluation{'s' * (nfe != 1)}" for nfe in nfe_values(known)}
    rows = [
        {"group": group, "name": names.plain_arm(arm), **_cells(part, nfe, metrics)}
        for nfe, group in groups.items()
        for arm, part in table.groupby("arm", sort=False)
    ]
    if (known["set"] == "test").any():
        rows.append({"group": "Floor", "name": names.TEST, **_cells(known, "test", metrics)})
    return pd.DataFrame(rows), _columns(metrics, set(groups.values())), _notes(table, tests)


def _of_metric(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    return rows[(rows["metric"] == metric.metric) & (rows["features"] == metric.features)]


def _cells(rows: pd.DataFrame, which: str | int, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Numbers of seeds and volumes, mean and standard deviation of each metric, and mean seconds of training."""
    selected = select_set(rows, which)
    first = _of_metric(selected, metrics[0])
    seconds = rows.drop_duplicates("run")["seconds"].mean()
    cells = {"seeds": first["seed"].nunique(), "n": first["n"].min(), "seconds": seconds}
    for metric in metrics:  # every run repeats the value of the test participants
        values = _of_metric(selected, metric).drop_duplicates("set" if which == "test" else "run")["value"]
        cells |= {_key(metric): values.mean(), f"{_key(metric)}_sd": values.std(ddof=1)}
    return cells


def _key(metric: Metric) -> str:
    return f"{metric.metric} {metric.features}".strip()


def _columns(metrics: Sequence[Metric], trained: set[str]) -> list[Column]:
    """Printed columns; seeds, deviations and seconds only for the groups of trained arms."""
    columns = [Column("name", "", kind="text"), Column("seeds", "seeds", kind="whole", groups=trained)]
    columns.append(Column("n", "volumes", kind="whole"))
    for metric in metrics:
        header, factor = names.header(metric.metric)
        columns.append(Column(_key(metric), header, metric.features, factor=factor))
        columns.append(Column(f"{_key(metric)}_sd", "s.d.", "over seeds", factor=factor, groups=trained))
    return [*columns, Column("seconds", "training", "s", groups=trained)]


def _notes(table: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    """Test results of the ablation, and the arms that were not measured."""
    tests = tests.fillna({"a": "", "b": ""})
    noted = tests[(tests["ablation"] == table["ablation"].iloc[0]) & tests["question"].isin(NOTED)]
    notes = [
        f"{row['question'].replace('_', ' ').capitalize()}, {' and '.join(filter(None, (row['a'], row['b'])))}: "
        f"{row['finding']}."
        for row in noted.to_dict("records")
    ]
    absent = missing(table)
    return notes + ([f"Not measured: {', '.join(absent)}."] if absent else [])
