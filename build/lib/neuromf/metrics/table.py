"""The tidy table of metrics: one row per value, with what it was measured on and how sure it is.

Columns: nfe (the number of evaluations, or what else the set is: "real", "vae", "blurred", ...), metric, features (what
distances were taken between), n (volumes), value, low and high (ends of a 95 % interval, NaN where there is none).
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

COLUMNS = ["nfe", "metric", "features", "n", "value", "low", "high"]


def row(metric: str, value: float, n: int, *, low: float = np.nan, high: float = np.nan, features: str = "") -> dict:
    """One line of metrics.csv without what it was measured on."""
    return {"metric": metric, "features": features, "n": n, "value": float(value), "low": low, "high": high}


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """Tables of metrics, one below the other; text stays text, an empty number is NaN."""
    numbers = {name: [""] for name in ("n", "value", "low", "high")}
    return pd.concat(
        [pd.read_csv(path, dtype={"nfe": str}, keep_default_na=False, na_values=numbers) for path in paths],
        ignore_index=True,
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of metrics that could order the control sets, or were not asked to; what is left out is logged.

    Rows ordered_{metric} (1 or 0, from `evaluation.ordered`) stay, so that a reader sees why a metric is missing.
    """
    asked = table[table["metric"].str.startswith("ordered_")]
    failed = asked[asked["value"] == 0]
    names = set(zip(failed["metric"].str.removeprefix("ordered_"), failed["features"], strict=True))
    if names:
        logger.warning(
            "not shown, since they cannot order the controls: %s", ", ".join(sorted(map(" of ".join, names)))
        )
    keep = [pair not in names for pair in zip(table["metric"], table["features"], strict=True)]
    return table[keep]
