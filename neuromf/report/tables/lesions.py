"""Table 4: image and lesion mask together, per setting: distance of images, masks, and whether both agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuromf.report.tables.style import Column

OURS, KNOWN = "Generated, 1 evaluation", "Real, held out"
METRICS = {  # of the judged rows, by column: head, second line
    "lesion_fraction": ("with lesion", "fraction"),
    "lesion_ml": ("lesion", "ml"),
    "lesion_brightness": ("brighter", "in mask"),
    "lesion_auc": ("lesion", "AUC"),
    "thickening_mm": ("thicker", "mm"),
    "dice": ("Dice", "nearest real"),
    "hausdorff_mm": ("HD95", "mm"),
    "volume_wasserstein": ("volume", "W, log10 ml"),
    "place_wasserstein": ("place", "W, mm"),
}
NOTES = [
    "In parentheses 95 % intervals by bootstrap; those left out here are in the CSV. Brighter: intensity in the mask "
    "less that of other heads of the set at the same place; lesion AUC: how often a voxel of the mask stands out more "
    "than one outside it; thicker: the bright ribbon in the mask, less that of other heads there, for which brightness "
    "counts, too. A threshold by volume gives generated masks the mean volume of training lesions.",
    "Lesions are simulated where the study says so; the reference of all distances are the training pairs.",
]


def table_4(
    metrics: pd.DataFrame, settings: Mapping[str, Mapping[str, Any]], *, shown: Sequence[str] = ("kid",)
) -> tuple[pd.DataFrame, list[Column], list[str]]:
    """A row per arm and one for held-out real pairs.

    Arguments:
        metrics: Columns arm, metric, features, n, value, low and high.
        settings: Of each arm: run (whose rows it has), strategy, p (of image and mask, as text), targets and
            trainable (share of weights).
        shown: Distances of images that become columns, one for each of their feature sets.

    Raises:
        ValueError: If a run was not measured, or a value stands there twice.
    """
    metrics = metrics.fillna({"features": ""}).drop_duplicates()
    keys = [(m, f) for m in shown for f in metrics.loc[metrics["metric"] == m, "features"].unique()]
    rows = [
        {"group": OURS, "name": arm, **about, **_cells(metrics, about["run"], keys)} for arm, about in settings.items()
    ]
    rows.append({"group": KNOWN, "name": "held-out pairs", **_cells(metrics, "real", keys)})
    return pd.DataFrame(rows), _columns(keys), NOTES


def _cells(metrics: pd.DataFrame, run: str, keys: Sequence[tuple[str, str]]) -> dict:
    ours = metrics[metrics["arm"] == run]
    if not len(ours):
        raise ValueError(f"no metrics of {run}; there are {', '.join(sorted(metrics['arm'].unique()))}")
    cells: dict[str, Any] = {}
    for metric, features in [*keys, *((name, "") for name in METRICS)]:
        found = ours[(ours["metric"] == metric) & (ours["features"] == features)]
        if len(found) > 1:
            raise ValueError(f"{len(found)} rows of {metric} {features} for {run}, wanted one; measure again")
        for row in found.to_dict("records"):
            key = f"{metric} {features}".strip()
            cells |= {key: row["value"], f"{key}_low": row["low"], f"{key}_high": row["high"]}
    share = ours[ours["metric"] == "lesion_fraction"]
    return {"n": int(share["n"].iloc[0]) if len(share) else None, **cells}


def _columns(keys: Sequence[tuple[str, str]]) -> list[Column]:
    ours = {OURS}
    scale = {"kid": ("KID", 1), "frechet": ("Fréchet distance", 1)}
    distances = [(f"{m} {f}".strip(), *scale.get(m, (m, 1)), f) for m, f in keys]
    return [
        Column("name", "", kind="text"),
        Column("strategy", "mask", kind="text", groups=ours),
        Column("p", "p", "image, mask", kind="text", groups=ours),
        Column("targets", "adapters", kind="text", groups=ours),
        Column("trainable", "trained", "% of weights", factor=100, groups=ours),
        Column("n", "pairs", kind="whole"),
        *(Column(key, head, below, factor=factor) for key, head, factor, below in distances),
        *(Column(key, *head, interval=key == "lesion_brightness") for key, head in METRICS.items()),
    ]
