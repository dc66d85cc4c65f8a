"""Which scans of a cohort are unlike the others: for looking at them, never for leaving them out.

Each measure of a scan is compared with the cohort's median, in robust standard deviations: 1.4826 median absolute
deviations, which are one standard deviation where a measure is normal. What lies beyond the bound is named.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.transform import downscale_local_mean

BEYOND = 4.5  # robust standard deviations; one of 136 good heads of IXI lies beyond
AT_LEAST = 10  # scans, without which a median says little
COARSE = 20  # voxels of the longest axis that volumes are compared on
MEASURES = {  # column: what a low and a high value is called
    "foreground_ml": ("small", "large"),
    "right_left_mm": ("narrow", "wide"),
    "front_back_mm": ("short front to back", "long front to back"),
    "top_bottom_mm": ("low top to bottom", "tall"),
    "mean": ("dark", "bright"),
    "correlation": ("unlike others", ""),
}


def coarse(volume: NDArray) -> NDArray:
    """Block means of a volume, with at most 20 blocks along its longest axis, as one line of float32."""
    return downscale_local_mean(volume, (math.ceil(max(volume.shape) / COARSE),) * 3).ravel().astype(np.float32)


def correlation_with_median(lines: Iterable[NDArray]) -> NDArray:
    """Correlation of each coarse volume with the median of them all, in [-1, 1]; NaN of one without contrast."""
    x = np.stack(list(lines))
    middle = np.median(x, axis=0)
    middle, x = middle - middle.mean(), x - x.mean(axis=1, keepdims=True)
    sizes = np.linalg.norm(x, axis=1) * np.linalg.norm(middle)
    return np.divide(x @ middle, sizes, out=np.full(len(x), np.nan), where=sizes > 0)


def robust_scores(values: NDArray) -> NDArray:
    """How many robust standard deviations each value lies above the median; 0 where all but few are the same."""
    away = values - np.nanmedian(values)
    spread = 1.4826 * np.nanmedian(np.abs(away))
    return away / spread if spread > 0 else np.zeros_like(away)


def find_outliers(table: pd.DataFrame, correlation: NDArray, beyond: float = BEYOND) -> pd.DataFrame:
    """What is odd about each scan, the oddest first.

    Arguments:
        table: One row per accepted scan: scan, foreground_ml, mean, and extent_mm as "140x175x150".
        correlation: Of each with the cohort's median volume, with shape (N,).
        beyond: Robust standard deviations that make a measure odd; of the correlation only low ones.
    Returns:
        Columns scan, the measures, oddness (the largest score) and flag: what is odd, with its score, or "".
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
    rows["flag"] = [_flag(one, beyond) if len(each) >= AT_LEAST else "" for one in each]
    order = rows.assign(fine=rows["flag"] == "", usual=-rows["oddness"]).sort_values(["fine", "usual", "scan"]).index
    return rows.loc[order].reset_index(drop=True)


def _flag(scores: dict[str, float], beyond: float) -> str:
    """Names of what lies beyond the bound, the oddest first."""
    odd = sorted(((abs(score), name) for name, score in scores.items() if abs(score) > beyond), reverse=True)
    return "; ".join(f"{MEASURES[name][scores[name] > 0]} ({scores[name]:+.1f})" for _, name in odd)
