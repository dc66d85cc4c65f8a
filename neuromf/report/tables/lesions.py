"""Table 4: image and lesion mask together, one row per arm: distance of images, masks, and their agreement."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.figures import names
from neuromf.metrics.table import read
from neuromf.report.tables.style import Column, measured, save

GENERATED, REAL = "Generated, 1 network evaluation", "Real, test participants"
METRICS = {  # header and second line of each metric of lesions
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
    "Parentheses: 95 % bootstrap intervals; the CSV has all of them. Brighter: intensity in the mask minus that of the "
    "other brains of the set at the same place. Lesion AUC: probability that a voxel in the mask stands out more than "
    "one outside. Thicker: thickness of the bright ribbon in the mask minus that of other brains at the same place, "
    "which also depends on brightness. Masks that are thresholded by volume have the mean volume of training lesions.",
    "The study says whether lesions are simulated. All distances are to the training pairs.",
]


def render(*, metrics: Sequence[Path], cards: Sequence[Path], out: Path, **config: Any) -> None:
    """Write table 4.

    Arguments:
        metrics: Metrics of the pairs of each run (csv).
        cards: Run records (JSON), each in the folder of its run.
        config: arms (run of each arm), column_metrics (distances of images, such as kid).
    """
    records = {path.parent.name: json.loads(path.read_text()) for path in cards}
    settings = {arm: {"run": run, **_settings(records[run])} for arm, run in config["arms"].items()}
    save(*build(read(metrics), settings, config["column_metrics"]), out, config)


def _settings(record: dict) -> dict[str, Any]:
    """Settings of a run that the table prints."""
    finetune = record["config"]["finetune"]
    return {
        "mask_encoding": record["data"]["mask_encoding"],
        "p": f"{finetune['p_image']:g}, {finetune['p_mask']:g}",
        "targets": record["config"]["adapter"]["targets"],
        "trainable": record["trainable"] / record["total"],
    }


def build(
    metrics: pd.DataFrame, settings: Mapping[str, Mapping[str, Any]], column_metrics: Sequence[str] = ("kid",)
) -> tuple[pd.DataFrame, list[Column], list[str]]:
    """One row per arm, and one for the real pairs of test participants.

    Arguments:
        metrics: Columns arm (a run, or "real"), metric, features, n, value, low and high.
        settings: Of each arm, run, mask_encoding, p (of image and mask, as text), targets (of adapters) and
            trainable (fraction of weights).
        column_metrics: Distances of images; each of their feature sets is a column.

    Returns:
        The table, its columns, and its notes.

    Raises:
        ValueError: If a run was not evaluated, or a metric has several rows.
    """
    metrics = metrics.fillna({"features": ""}).drop_duplicates()
    keys = [(m, f) for m in column_metrics for f in metrics.loc[metrics["metric"] == m, "features"].unique()]
    rows = [
        {"group": GENERATED, "name": arm, **about, **_cells(metrics, about["run"], keys)}
        for arm, about in settings.items()
    ]
    rows.append({"group": REAL, "name": "test pairs", **_cells(metrics, "real", keys)})
    return pd.DataFrame(rows), _columns(keys), NOTES


def _cells(metrics: pd.DataFrame, run: str, keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
    rows = metrics[metrics["arm"] == run]
    if rows.empty:
        raise ValueError(f"no metrics of run {run}; the tables have {', '.join(sorted(metrics['arm'].unique()))}")
    cells: dict[str, Any] = {}
    for metric, features in [*keys, *((name, "") for name in METRICS)]:
        cells |= measured(rows, metric, features, f"{metric} {features}".strip())
    return {"n": cells.get("lesion_fraction_n"), **cells}


def _columns(keys: Sequence[tuple[str, str]]) -> list[Column]:
    groups = {GENERATED}
    return [
        Column("name", "", kind="text"),
        Column("mask_encoding", "mask", kind="text", groups=groups),
        Column("p", "p", "image, mask", kind="text", groups=groups),
        Column("targets", "adapters", kind="text", groups=groups),
        Column("trainable", "trained", "% of weights", factor=100, groups=groups),
        Column("n", "pairs", kind="whole"),
        *(Column(f"{metric} {features}".strip(), names.metric(metric), features) for metric, features in keys),
        *(Column(key, *header, interval=key == "lesion_brightness") for key, header in METRICS.items()),
    ]
