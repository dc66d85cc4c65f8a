"""The tidy table of metrics: one row per value.

Columns:
    run: Name of the run, empty for reference values that all runs share.
    set: Volumes that were evaluated: "samples" (of the run), "test" (scans of test participants), "reconstruction"
        (test scans after encode-decode), "prior", "blurred" and so on.
    nfe: Network evaluations per sample, empty if the set is not "samples".
    metric, features: Name of the metric and of its feature set.
    n: Number of volumes.
    value, low, high: The value and its 95 % interval, NaN if it has none.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

SAMPLES = "samples"
COLUMNS = ["set", "nfe", "metric", "features", "n", "value", "low", "high"]
TEXT = [  # columns that are never parsed as numbers: an arm may be called 1.0
    *("ablation", "arm", "run", "set", "metric", "features", "question", "a", "b", "verdict", "finding")
]


def row(metric: str, value: float, n: int, *, low: float = np.nan, high: float = np.nan, features: str = "") -> dict:
    """One row of the table without the columns run, set and nfe."""
    return {"metric": metric, "features": features, "n": n, "value": float(value), "low": low, "high": high}


def set_columns(which: str | int) -> dict[str, str | int | None]:
    """Columns set and nfe of a named set, or of the samples drawn with `which` network evaluations."""
    return {"set": which, "nfe": None} if isinstance(which, str) else {"set": SAMPLES, "nfe": which}


def select_set(table: pd.DataFrame, which: str | int) -> pd.DataFrame:
    """Rows of a named set, or of the samples drawn with `which` network evaluations."""
    if isinstance(which, str):
        return table[table["set"] == which]
    return table[(table["set"] == SAMPLES) & (table["nfe"] == which).fillna(False).astype(bool)]


def nfe_values(table: pd.DataFrame) -> list[int]:
    """Numbers of network evaluations in the table, ascending."""
    return sorted(set(table.loc[table["set"] == SAMPLES, "nfe"].astype(int)))


def read_rows(path: Path) -> pd.DataFrame:
    """A table of metrics, of an ablation or of test results; empty text is "", an empty number is NaN."""
    types = dict.fromkeys(TEXT, str) | {"nfe": "Int64"}
    table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    text = table.columns.intersection(TEXT)
    return table.assign(**table[text].fillna(""))


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """Concatenated tables of metrics."""
    return pd.concat([read_rows(path) for path in paths], ignore_index=True)


def valid_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the metrics that put the control sets in order, or that were not tested on them.

    Metrics that failed are logged. Their rows ordered_{metric} (1 or 0, see `controls.order_rows`) stay in the table.
    """
    tested = table[table["metric"].str.startswith("ordered_")]
    failed = tested[tested["value"] == 0]
    names = set(zip(failed["metric"].str.removeprefix("ordered_"), failed["features"], strict=True))
    if names:
        logger.warning(
            "left out, because they do not put the control sets in order: %s",
            ", ".join(sorted(map(" of ".join, names))),
        )
    valid = [pair not in names for pair in zip(table["metric"], table["features"], strict=True)]
    return table[valid]
