"""Figure 6: x-prediction against u-prediction, by distance over seeds and by one-step samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from neuromf.data.participants import read_table
from neuromf.figures import arms, brains, names, style
from neuromf.metrics.table import read_rows

COLUMNS = 4  # samples of each arm
WIDTH = 3.5  # of the samples, in inches
EMPTY = np.zeros((8, 8, 8))


def render(*, table: Path, samples: Sequence[Path], out: Path, **config: Any) -> None:
    """Draw figure 6 from the metrics of all arms (csv), as of `neuromf.metrics.ablations.gather`, and their samples.

    Arguments:
        samples: Folder of one-step samples of each arm in sampled_arms; without samples.tsv an arm is missing.
        config: distance (metric and features), sampled_arms, spacing_mm (voxel size).
    """
    lists = {arm: folder / "samples.tsv" for arm, folder in zip(config["sampled_arms"], samples, strict=True)}
    volumes = {
        arm: brains.read(read_table(path)["file"][:COLUMNS]) if path.is_file() else [] for arm, path in lists.items()
    }
    distance = config["distance"]["metric"], config["distance"]["features"]
    style.save(draw(read_rows(table), volumes, distance, config["spacing_mm"]), out, config)


def draw(
    table: pd.DataFrame,
    volumes: Mapping[str, Sequence[NDArray]],
    distance: tuple[str, str],
    spacing_mm: float,
    columns: int = COLUMNS,
) -> Figure:
    """Distances of every seed with mean and standard deviation, beside one-step samples from the same noise.

    Arguments:
        table: Rows of the ablation, columns arm, seed, set, nfe, metric, features, n and value.
        volumes: One-step volumes (I, J, K) in [0, 1], RAS+, of each arm; volume k of every arm starts from the same
            noise. An arm without volumes is marked as missing.
        distance: Metric and features on the y-axis.
        spacing_mm: Voxel size.
        columns: Samples of each arm.
    """
    volumes = {arm: part[:columns] for arm, part in volumes.items()}
    crop = brains.box([volume for part in volumes.values() for volume in part] or [EMPTY])
    wide, deep, high = (side.stop - side.start for side in crop)
    inch = (WIDTH - 0.35) / columns / wide
    fig = style.new(style.PAGE, max(2.9, len(volumes) * ((deep + high) * inch + 0.1)))
    left, right = fig.subfigures(1, 2, width_ratios=[style.PAGE - WIDTH, WIDTH])  # type: ignore[misc]  # two are asked for
    _distances(left, table, distance)
    for block, (arm, part) in zip(np.atleast_1d(right.subfigures(len(volumes), 1)), volumes.items(), strict=True):
        block.supylabel(names.arm(arm), fontsize=10)
        axes = block.subplots(2, columns, gridspec_kw={"height_ratios": [deep, high], "wspace": 0.02, "hspace": 0.02})
        if not len(part):
            block.text(0.5, 0.5, "missing", ha="center", style="italic", fontsize=8)
        _slices(axes, part, crop, spacing_mm)
    right.text(0, 0.99, "(b)", va="top", fontweight="bold")
    return fig


def _slices(axes: NDArray, volumes: Sequence[NDArray], crop: brains.Crop, spacing_mm: float) -> None:
    """Draw one volume per column, one plane per row; columns without a volume stay empty."""
    for row, plane in zip(axes, ("axial", "coronal"), strict=True):
        for k, ax in enumerate(row):
            ax.set_axis_off()
            if k < len(volumes):
                brains.show(ax, brains.cut(volumes[k], plane, crop, spacing_mm), mark=k == 0)


def _distances(fig: SubFigure, table: pd.DataFrame, distance: tuple[str, str]) -> None:
    """Draw distances at each NFE, arms side by side, with that of the test participants."""
    ax = fig.subplots()
    rows = arms.of_samples(table, *distance)
    _points(ax, rows, list(dict.fromkeys(table["arm"])))
    arms.draw_test(ax, table, *distance, label=f"{names.TEST} ({{n}} volumes)")
    ax.set(xlabel="network evaluations", ylabel=arms.label(*distance))
    arms.scale_values(ax, rows["value"])
    style.letter(ax, "a")
    arms.finish(fig, table)


def _points(ax: Axes, rows: pd.DataFrame, names_of_arms: list[str]) -> None:
    """Draw every seed as an open point beside their mean and standard deviation; a single seed as one point."""
    places = {n: place for place, n in enumerate(sorted(set(rows["nfe"])))}
    for k, arm in enumerate(names_of_arms):
        part = rows[rows["arm"] == arm]
        x = part["nfe"].map(places) + 0.36 * (k - (len(names_of_arms) - 1) / 2)
        look = {"color": style.PALETTE[k % 10], "marker": arms.MARKERS[k % 5], "ls": "none"}
        if (seeds := part["seed"].nunique()) > 1:
            ax.plot(x - 0.07, part["value"], mfc="none", mew=0.7, ms=3, **look)
            means = arms.over_seeds(part.assign(x=x + 0.07), "x")
            arms.draw_means(ax, *means, f"{names.arm(arm)} ({seeds} seeds, mean and s.d.)", **look)
        elif seeds:
            ax.plot(x, part["value"], label=f"{names.arm(arm)} (1 seed)", **look)
    ax.set_xticks(list(places.values()), [str(n) for n in places])
    ax.set_xlim(-0.5, max(len(places), 1) - 0.5)
