"""Outliers of a cohort, for visual inspection; they are never excluded.

Each measure of a scan is compared with the median of the cohort, in robust standard deviations: 1.4826 median absolute
deviations, one standard deviation of a normal distribution.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.transform import downscale_local_mean

BEYOND = 4.5  # robust standard deviations; 1 of 136 normal scans of IXI is beyond
FEWEST = 10  # scans below which nothing is flagged
COARSE = 20  # blocks along the longest axis of the volumes that are correlated
MEASURES = {  # column: description of a low and of a high value
    "foreground_ml": ("small", "large"),
    "right_left_mm": ("narrow", "wide"),
    "front_back_mm": ("short front to back", "long front to back"),
    "top_bottom_mm": ("low top to bottom", "tall"),
    "mean": ("dark", "bright"),
    "correlation": ("low correlation", ""),
}


def coarse(volume: NDArray) -> NDArray:
    """Block means of a volume, with at most 20 blocks along its longest axis, as a float32 vector."""
    return downscale_local_mean(volume, (math.ceil(max(volume.shape) / COARSE),) * 3).ravel().astype(np.float32)


def correlation_with_median(volumes: Iterable[NDArray]) -> NDArray:
    """Correlation of each `coarse` volume with the median volume, in [-1, 1]; NaN for a constant volume."""
    x = np.stack(list(volumes))
    median = np.median(x, axis=0)
    median, x = median - median.mean(), x - x.mean(axis=1, keepdims=True)
    sizes = np.linalg.norm(x, axis=1) * np.linalg.norm(median)
    return np.divide(x @ median, sizes, out=np.full(len(x), np.nan), where=sizes > 0)


def robust_scores(values: NDArray) -> NDArray:
    """Distance of each value from the median in robust standard deviations; 0 if most values are equal."""
    away = values - np.nanmedian(values)
    spread = 1.4826 * np.nanmedian(np.abs(away))
    return away / spread if spread > 0 else np.zeros_like(away)


def find_outliers(table: pd.DataFrame, correlation: NDArray, beyond: float = BEYOND) -> pd.DataFrame:
    """Outlier scores and flags of scans, the largest score first.

    Arguments:
        table: One row per accepted scan: scan, foreground_ml, mean, and extent_mm as "140x175x150".
        correlation: Correlation of each scan with the median volume, shape (N,).
        beyond: Robust standard deviations above which a measure is flagged; of the correlation only low values.

    Returns:
        Columns scan, the measures, oddness (largest absolute score) and flag (descriptions with their scores, or "").
    """
    extent = table["extent_mm"].str.split("x", expand=True).astype(float)
    numbers = {name: pd.to_numeric(table[name]).to_numpy(float) for name in ("foreground_ml", "mean")}
    numbers |= {name: extent[k].to_numpy() for k, name in enumerate(list(MEASURES)[1:4])}
    numbers["correlation"] = np.asarray(correlation, float)
    scores = {name: robust_scores(numbers[name]) for name in MEASURES}
    scores["correlation"] = np.minimum(scores["correlation"], 0)
    rows = pd.DataFrame({"scan": table["scan"].to_numpy()} | {name: numbers[name] for name in MEASURES})
    rows["oddness"] = np.nanmax(np.abs(list(scores.values())), axis=0)
    each = pd.DataFrame(scores).to_dict("records")
    rows["flag"] = [_flag(one, beyond) if len(each) >= FEWEST else "" for one in each]
    order = rows.assign(fine=rows["flag"] == "", usual=-rows["oddness"]).sort_values(["fine", "usual", "scan"]).index
    return rows.loc[order].reset_index(drop=True)


def _flag(scores: dict[str, float], beyond: float) -> str:
    """Descriptions of the measures beyond the bound, the largest score first."""
    flagged = sorted(((abs(score), name) for name, score in scores.items() if abs(score) > beyond), reverse=True)
    return "; ".join(f"{MEASURES[name][scores[name] > 0]} ({scores[name]:+.1f})" for _, name in flagged)
