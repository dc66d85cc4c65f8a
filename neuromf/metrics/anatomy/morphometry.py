"""Distances between the regional volumes of real and generated brains.

Tables have one row per brain and one column per region, in ml, as from `regions.volumes`. Rows with NaN, of volumes
that are no brains, are left out and counted. Brains of two sets are not paired, so distributions are compared: the
1-Wasserstein distance of each region, and the Gaussian 2-Wasserstein distance of all regions together (WASABI). Both
are positive for two samples of one population; each row therefore has the mean distance under permutation of the brains
(`chance`) and its permutation p-value (`p`).

References:
    WASABI: A Metric for Evaluating Morphometric Plausibility of Synthetic Brain MRIs (Jafrasteh et al., 2025),
    arXiv:2504.21771. WASABI uses volumes over intracranial volume; here each is also divided by its standard deviation
    over real brains, so that no region dominates, and the square root of the distance is reported.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from neuromf.metrics.distances.frechet import frechet_distance
from neuromf.metrics.resampling import bootstrap_indices, mean_interval, recentred_interval
from neuromf.metrics.table import row

FEWEST = 4  # brains per set below which nothing is compared


def compare(
    real: pd.DataFrame,
    fake: pd.DataFrame,
    *,
    features: str = "atlas",
    n_boot: int = 200,
    n_permutations: int = 200,
    seed: int = 0,
) -> list[dict]:
    """Rows of all distances between the regional volumes of two sets of brains.

    Arguments:
        real: Regions of real brains in ml, a row per brain.
        fake: Regions of generated brains, with the same columns.
        features: Name of the segmentation.
        n_boot: Bootstrap resamples of an interval.
        n_permutations: Permutations of the brains of both sets, for chance and p.
        seed: Seed of resamples and permutations.

    Returns:
        Rows of metric, features, n, value, low, high, chance and p: segmented (fraction of generated volumes that have
        regions), wasserstein_{region}_ml and wasserstein_{region}_sd (in standard deviations of real brains) for each
        column, and wasserstein_joint (in standard deviations of fractions of the intracranial volume).

    Raises:
        ValueError: If the columns differ.
    """
    if list(real.columns) != list(fake.columns):
        raise ValueError(
            f"real and fake must have the same regions; got {list(real.columns)} and {list(fake.columns)}: "
            "measure both with one method"
        )
    x, y = real.dropna(), fake.dropna()
    common = {"features": features, "n": len(y)}
    low, high = stats.binomtest(len(y), len(fake)).proportion_ci(method="wilson") if len(fake) else (np.nan,) * 2
    fraction = len(y) / len(fake) if len(fake) else np.nan
    rows = [row("segmented", fraction, len(fake), low=low, high=high, features=features)]
    draws: dict[str, Any] = {"n_boot": n_boot, "n_permutations": n_permutations, "seed": seed}
    for region in real.columns:
        a, b = x[region].to_numpy(), y[region].to_numpy()
        result = permutation_test(stats.wasserstein_distance, a, b, **draws)
        sd = a.std(ddof=1) if len(a) > 1 else np.nan
        rows.append({"metric": f"wasserstein_{region}_ml", **common, **result})
        scaled = {name: result[name] / sd if sd > 0 else np.nan for name in ("value", "low", "high", "chance")}
        rows.append({"metric": f"wasserstein_{region}_sd", **common, **result, **scaled})
    joint = permutation_test(joint_distance, relative_volumes(x), relative_volumes(y), **draws)
    return [*rows, {"metric": "wasserstein_joint", **common, **joint}]


def relative_volumes(table: pd.DataFrame) -> NDArray:
    """Regions over intracranial volume, shape (N, R), without totals; unscaled if there is no intracranial volume."""
    regions = table.drop(columns=["brain", "intracranial"], errors="ignore")
    total = table["intracranial"] if "intracranial" in table else 1.0
    return regions.div(total, axis=0).to_numpy(dtype=float)


def joint_distance(real: NDArray, fake: NDArray) -> float:
    """Gaussian 2-Wasserstein distance of two sets (N, R) and (M, R), in standard deviations of the real set.

    Columns that are constant in the real set are left out; NaN if all are constant.
    """
    mean, sd = real.mean(axis=0), real.std(axis=0, ddof=1)
    varies = sd > 1e-12
    if not varies.any():
        return np.nan
    a, b = ((x[:, varies] - mean[varies]) / sd[varies] for x in (real, fake))
    return float(np.sqrt(frechet_distance(a, b)))


def permutation_test(
    distance: Callable[[NDArray, NDArray], float],
    real: NDArray,
    fake: NDArray,
    *,
    n_boot: int,
    n_permutations: int,
    seed: int,
) -> dict[str, float]:
    """A distance of two sets: value, its 95 % bootstrap interval, its mean under permutation (chance), and p.

    Sets of fewer than four brains give NaN.
    """
    if min(len(real), len(fake)) < FEWEST:
        return dict.fromkeys(("value", "low", "high", "chance", "p"), np.nan)
    rng, value = np.random.default_rng(seed), distance(real, fake)
    pairs = bootstrap_indices(len(real), len(fake), n_boot, rng)
    low, high = recentred_interval(value, [distance(real[i], fake[j]) for i, j in pairs])
    both, permuted = np.concatenate([real, fake]), []
    for _ in range(n_permutations):
        shuffled = both[rng.permutation(len(both))]
        permuted.append(distance(shuffled[: len(real)], shuffled[len(real) :]))
    p = (1 + np.sum(np.array(permuted) >= value)) / (1 + n_permutations)
    return {"value": value, "low": low, "high": high, "chance": float(np.nanmean(permuted)), "p": p}


def asymmetry(table: pd.DataFrame, regions: Sequence[str] = ("ventricle",)) -> pd.DataFrame:
    """Left minus right volume over their mean, by region, in [-2, 2].

    The default is the ventricles only: asymmetries of grey and white matter did not follow those of labelled scans.

    Arguments:
        table: Regions in ml, with columns left_{region} and right_{region}.
        regions: Names without their side.

    Returns:
        Columns asymmetry_{region}; NaN if both sides are 0.
    """
    columns = {}
    for region in regions:
        left, right = table[f"left_{region}"], table[f"right_{region}"]
        total = left + right
        columns[f"asymmetry_{region}"] = 2 * (left - right) / total.where(total > 0)
    return pd.DataFrame(columns)


def mean_rows(table: pd.DataFrame, *, features: str = "atlas", n_boot: int = 1000, seed: int = 0) -> list[dict]:
    """Rows of the mean of each column with its 95 % bootstrap interval; NaN values are left out.

    Arguments:
        table: A row per volume, a column per measure.
        features: Name of the segmentation or feature set.
        n_boot: Bootstrap resamples.
        seed: Seed of the resamples of each column.
    """
    rows = []
    for name, column in table.items():
        values = column.dropna().to_numpy(dtype=float)
        low, high = mean_interval(values, n_boot, seed) if len(values) >= FEWEST else (np.nan, np.nan)
        value = values.mean() if len(values) else np.nan
        rows.append(row(str(name), value, len(values), low=low, high=high, features=features))
    return rows


def tidy(table: pd.DataFrame, name: str, scans: Sequence[str]) -> pd.DataFrame:
    """Rows of scan, set, region and ml, one per brain and region, without NaN.

    The intracranial volume is left out: in skull-stripped volumes it depends on the stripping.

    Arguments:
        table: Regions in ml, a row per brain.
        name: Name of the set, such as "test".
        scans: Name of the scan of each row.
    """
    if len(scans) != len(table):
        raise ValueError(f"scans must name each of the {len(table)} rows; got {len(scans)}")
    regions = table.drop(columns="intracranial", errors="ignore").assign(scan=list(scans), set=name)
    rows = regions.melt(["scan", "set"], var_name="region", value_name="ml")
    return rows.dropna(subset="ml").reset_index(drop=True)
