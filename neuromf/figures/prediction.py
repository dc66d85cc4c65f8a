"""Figure 6: what the network predicts, data or average velocity, by distance over seeds and by sight."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from neuromf.figures import brains, style
from neuromf.figures.evaluations import MARKERS, NAMES, drawn, floor, label, name_missing, over_seeds, ratios

SIGHT = 3.5  # inches of the samples
EMPTY = np.zeros((8, 8, 8))  # a volume where there is none


def fig_6(
    table: pd.DataFrame,
    volumes: Mapping[str, NDArray | None],
    *,
    distance: tuple[str, str],
    spacing_mm: float,
    columns: int = 4,
) -> Figure:
    """Distances of every seed with mean and standard deviation, beside one-step samples from the same noise.

    Arguments:
        table: Rows of the ablation, columns arm, seed, nfe (text), metric, features, n and value.
        volumes: One-step volumes (N, I, J, K) in [0, 1], RAS+, by arm, in which position k is made from the same
            noise in every arm; None where there are none, which the figure says.
        distance: The distance that is drawn, metric and features.
        spacing_mm: Voxel size.
        columns: Samples of each arm that are shown.
    """
    shown = {arm: part if part is None else part[:columns] for arm, part in volumes.items()}
    crop = brains.box([volume for part in shown.values() if part is not None for volume in part] or [EMPTY])
    wide, deep, high = (side.stop - side.start for side in crop)
    inch = (SIGHT - 0.35) / columns / wide
    fig = style.new(style.PAGE, max(2.9, len(shown) * ((deep + high) * inch + 0.1)))
    left, right = fig.subfigures(1, 2, width_ratios=[style.PAGE - SIGHT, SIGHT])  # type: ignore[misc]  # two are asked for
    scatter(left, table, distance)
    for block, (arm, part) in zip(np.atleast_1d(right.subfigures(len(shown), 1)), shown.items(), strict=True):
        block.supylabel(NAMES.get(arm, arm), fontsize=10)
        axes = block.subplots(2, columns, gridspec_kw={"height_ratios": [deep, high], "wspace": 0.02, "hspace": 0.02})
        if part is None:
            block.text(0.5, 0.5, "missing", ha="center", style="italic", fontsize=8)
        slices(axes, [] if part is None else part, crop, spacing_mm)
    right.text(0, 0.99, "(b)", va="top", fontweight="bold")
    return fig


def slices(
    axes: NDArray, volumes: Sequence[NDArray] | NDArray, crop: tuple[slice, slice, slice], spacing_mm: float
) -> None:
    """One volume per column, one plane per row; places without a volume stay empty."""
    for row, plane in zip(axes, ("axial", "coronal"), strict=True):
        for k, ax in enumerate(row):
            ax.set_axis_off()
            if k < len(volumes):
                brains.show(ax, brains.cut(volumes[k], plane, crop, spacing_mm), mark=k == 0)


def scatter(fig: SubFigure, table: pd.DataFrame, distance: tuple[str, str]) -> None:
    """Distances at each number of evaluations, arms side by side, over those of real people."""
    ax = fig.subplots()
    rows = drawn(table, *distance)
    groups(ax, rows, list(dict.fromkeys(table["arm"])))
    floor(ax, table, *distance)
    ax.set(xlabel="network evaluations", ylabel=label(*distance))
    ratios(ax, rows)
    style.letter(ax, "a")
    if ax.get_legend_handles_labels()[0]:
        fig.legend(loc="outside upper left", borderaxespad=0.3)
    name_missing(fig, table)


def groups(ax: Axes, rows: pd.DataFrame, arms: list[str]) -> None:
    """Every seed as an open point, and beside it their mean and standard deviation; an arm of one seed is its point."""
    places = {n: place for place, n in enumerate(sorted(set(rows["evaluations"])))}
    for k, arm in enumerate(arms):
        part = rows[rows["arm"] == arm]
        x = part["evaluations"].map(places) + 0.36 * (k - (len(arms) - 1) / 2)
        look = {"color": style.PALETTE[k % 10], "marker": MARKERS[k % 5], "ls": "none"}
        if (seeds := part["seed"].nunique()) > 1:
            means, spread = over_seeds(part.assign(x=x + 0.07), "x")
            ax.plot(x - 0.07, part["value"], mfc="none", mew=0.7, ms=3, **look)
            ax.errorbar(means.index, means, yerr=spread, fmt="none", ecolor=look["color"], capsize=2, elinewidth=0.9)
            ax.plot(means.index, means, label=f"{NAMES.get(arm, arm)} ({seeds} seeds, mean and s.d.)", **look)
        elif seeds:
            ax.plot(x, part["value"], label=f"{NAMES.get(arm, arm)} (1 seed)", **look)
    ax.set_xticks(list(places.values()), [str(n) for n in places])
    ax.set_xlim(-0.5, max(len(places), 1) - 0.5)
