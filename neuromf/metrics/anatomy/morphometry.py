"""Do generated brains have the anatomy of real ones: distributions of regional volumes, compared.

Tables have one row per brain and one column per region, in ml, as from `regions.volumes`; rows with a NaN, whose volume
was no brain, are left out and counted. Values of two sets that no person links cannot be correlated, so distributions
are compared: region by region with the 1-Wasserstein distance, and all regions together with the Gaussian
2-Wasserstein distance of WASABI. Both are above 0 for two samples of one population; each row therefore says what the
distance is when the brains of both sets are shuffled (`chance`), and how often shuffling reaches the distance (`p`).

References:
    WASABI: A Metric for Evaluating Morphometric Plausibility of Synthetic Brain MRIs (Jafrasteh et al., 2025),
    arXiv:2504.21771. There, volumes over intracranial volume; here each is in units of its real standard deviation too,
    so that no region outweighs the others, and the root of the distance is given.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from neuromf.metrics.distances.frechet import frechet_distance
from neuromf.metrics.resampling import recentred_interval

FEWEST = 4  # brains per set, below which nothing is compared


def compare(
    real: pd.DataFrame,
    fake: pd.DataFrame,
    *,
    features: str = "atlas",
    n_boot: int = 200,
    n_permutations: int = 200,
    seed: int = 0,
) -> list[dict]:
    """Rows of every distance between the regional volumes of two sets of brains.

    Arguments:
        real: Regions of real brains in ml, one row per brain.
        fake: Those of generated ones, with the same columns.
        features: The segmentation the volumes came from; it stands in every row.
        n_boot: Redraws of the brains of both sets for an interval.
        n_permutations: Shuffles of the brains between the sets for chance and p.

    Returns:
        Rows of metric, features, n, value, low, high, chance and p: segmented (share of generated volumes that have
        regions), wasserstein_{region}_ml and wasserstein_{region}_sd (in real standard deviations) for every column,
        and wasserstein_joint (in standard deviations of shares of the intracranial volume).

    Raises:
        ValueError: If the columns differ.
    """
    if list(real.columns) != list(fake.columns):
        raise ValueError(
            f"real and fake must have the same regions; got {list(real.columns)} and {list(fake.columns)}: "
            "measure both by one method"
        )
    x, y = real.dropna(), fake.dropna()
    start = {"features": features, "n": len(y)}
    low, high = stats.binomtest(len(y), len(fake)).proportion_ci(method="wilson") if len(fake) else (np.nan,) * 2
    share = len(y) / len(fake) if len(fake) else np.nan
    rows = [{"metric": "segmented", "features": features, "n": len(fake), "value": share, "low": low, "high": high}]
    draws = {"n_boot": n_boot, "n_permutations": n_permutations, "seed": seed}
    for region in real.columns:
        a, b = x[region].to_numpy(), y[region].to_numpy()
        row = judge(stats.wasserstein_distance, a, b, **draws)
        sd = a.std(ddof=1) if len(a) > 1 else np.nan
        rows.append({"metric": f"wasserstein_{region}_ml", **start, **row})
        scaled = {name: row[name] / sd if sd > 0 else np.nan for name in ("value", "low", "high", "chance")}
        rows.append({"metric": f"wasserstein_{region}_sd", **start, **row, **scaled})
    return [*rows, {"metric": "wasserstein_joint", **start, **judge(joint_distance, shares(x), shares(y), **draws)}]


def shares(table: pd.DataFrame) -> NDArray:
    """Regions over intracranial volume, with shape (N, R), without totals; the plain columns where it is missing."""
    regions = table.drop(columns=["brain", "intracranial"], errors="ignore")
    total = table["intracranial"] if "intracranial" in table else 1.0
    return regions.div(total, axis=0).to_numpy(dtype=float)


def joint_distance(real: NDArray, fake: NDArray) -> float:
    """Gaussian 2-Wasserstein distance of two sets (N, R) and (M, R), in standard deviations of the real one.

    Columns that do not vary among the real brains are left out; NaN if none does.
    """
    mean, sd = real.mean(axis=0), real.std(axis=0, ddof=1)
    varies = sd > 1e-12
    if not varies.any():
        return np.nan
    a, b = ((x[:, varies] - mean[varies]) / sd[varies] for x in (real, fake))
    return float(np.sqrt(frechet_distance(a, b)))


def judge(
    distance: Callable[[NDArray, NDArray], float],
    real: NDArray,
    fake: NDArray,
    *,
    n_boot: int,
    n_permutations: int,
    seed: int,
) -> dict[str, float]:
    """A distance of two sets with its 95 % bootstrap interval, its mean under shuffling, and its p-value.

    Sets of fewer than four brains give NaN throughout.
    """
    if min(len(real), len(fake)) < FEWEST:
        return dict.fromkeys(("value", "low", "high", "chance", "p"), np.nan)
    rng, value = np.random.default_rng(seed), distance(real, fake)
    again = [distance(_redrawn(real, rng), _redrawn(fake, rng)) for _ in range(n_boot)]
    low, high = recentred_interval(value, again)
    both, by_chance = np.concatenate([real, fake]), []
    for _ in range(n_permutations):
        shuffled = both[rng.permutation(len(both))]
        by_chance.append(distance(shuffled[: len(real)], shuffled[len(real) :]))
    p = (1 + np.sum(np.array(by_chance) >= value)) / (1 + n_permutations)
    return {"value": value, "low": low, "high": high, "chance": float(np.nanmean(by_chance)), "p": p}


def _redrawn(x: NDArray, rng: np.random.Generator) -> NDArray:
    return x[rng.integers(len(x), size=len(x))]


def asymmetry(table: pd.DataFrame, regions: Sequence[str] = ("ventricle",)) -> pd.DataFrame:
    """Left less right over their mean, by region, in [-2, 2]: 0 where both sides are alike.

    Only the ventricles' is given unless asked for: that of grey and white matter did not follow labelled real heads.

    Arguments:
        table: Regions in ml, with columns left_{region} and right_{region}.
        regions: Names without their side.

    Returns:
        Columns asymmetry_{region}; NaN where a brain has neither side.
    """
    columns = {}
    for region in regions:
        left, right = table[f"left_{region}"], table[f"right_{region}"]
        total = left + right
        columns[f"asymmetry_{region}"] = 2 * (left - right) / total.where(total > 0)
    return pd.DataFrame(columns)


def means(table: pd.DataFrame, *, features: str = "atlas", n_boot: int = 1000, seed: int = 0) -> list[dict]:
    """Rows of the mean of each column over volumes, with its 95 % bootstrap interval; NaN values are left out.

    Arguments:
        table: Anything measured per volume, such as asymmetries, or pieces, cavities and tunnels.
    """
    rows = []
    for name, column in table.items():
        values = column.dropna().to_numpy(dtype=float)
        low = high = np.nan
        if len(values) >= FEWEST:
            rng = np.random.default_rng(seed)
            draws = values[rng.integers(len(values), size=(n_boot, len(values)))].mean(axis=1)
            low, high = np.percentile(draws, [2.5, 97.5])
        value = values.mean() if len(values) else np.nan
        rows.append({"metric": name, "features": features, "n": len(values), "value": value, "low": low, "high": high})
    return rows


def tidy(table: pd.DataFrame, name: str, scans: Sequence[str]) -> pd.DataFrame:
    """Rows of scan, set, region and ml, as figure 8 wants them: one per brain and region, those of NaN left out.

    The intracranial volume is left out too: in stripped volumes it is what the stripping left.

    Arguments:
        table: Regions in ml, one row per brain.
        name: The set they belong to, such as "real, held out".
        scans: What each row is of.
    """
    if len(scans) != len(table):
        raise ValueError(f"scans must name each of the {len(table)} rows; got {len(scans)}")
    regions = table.drop(columns="intracranial", errors="ignore").assign(scan=list(scans), set=name)
    rows = regions.melt(["scan", "set"], var_name="region", value_name="ml")
    return rows.dropna(subset="ml").reset_index(drop=True)
