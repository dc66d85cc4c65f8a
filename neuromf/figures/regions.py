"""Figure 8: volumes of brain regions, real and generated."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuromf.figures import style

COLUMNS = 5
WORDS = {"gm": "grey matter", "wm": "white matter", "csf": "CSF"}


def fig_8(volumes: pd.DataFrame) -> Figure:
    """One panel per region, one violin per set with its brains as dots and its median as a line.

    Arguments:
        volumes: One row per brain and region, with columns scan, set, region and ml (millilitres). Sets and regions
            stand in the order of their first row; the first set is the real one and drawn in grey.
    """
    regions, sets = list(dict.fromkeys(volumes["region"])), list(dict.fromkeys(volumes["set"]))
    n_rows = -(-len(regions) // COLUMNS)
    fig = style.new(style.PAGE, 1.55 * n_rows + 0.35)
    axes = fig.subplots(n_rows, min(COLUMNS, len(regions)), squeeze=False).ravel()
    colours = [style.REAL, *style.PALETTE][: len(sets)]
    for ax, region in zip(axes, regions, strict=False):
        panel(ax, volumes[volumes["region"] == region], sets, colours)
        ax.set_xlabel(label(region), fontsize=8)
    for ax in axes[len(regions) :]:
        ax.set_axis_off()
    for ax in axes[::COLUMNS]:
        ax.set_ylabel("volume (ml)")
    dots = [
        Line2D([], [], ls="", marker="o", ms=5, color=colour, label=name)
        for name, colour in zip(sets, colours, strict=True)
    ]
    fig.legend(handles=dots, loc="outside upper center", ncols=len(sets), handletextpad=0.2, columnspacing=1.4)
    return fig


def panel(ax: Axes, rows: pd.DataFrame, sets: list[str], colours: list) -> None:
    """The distributions of one region, side by side."""
    common = {"data": rows, "x": "set", "y": "ml", "order": sets, "hue": "set", "hue_order": sets, "legend": False}
    sns.violinplot(**common, ax=ax, palette=colours, inner=None, cut=0, density_norm="width", linewidth=0, alpha=0.35)
    for k, (name, colour) in enumerate(zip(sets, colours, strict=True)):
        ml = rows.loc[rows["set"] == name, "ml"].to_numpy()
        jitter = np.random.default_rng(k).uniform(-0.18, 0.18, len(ml))  # seaborn's is another one in every run
        ax.scatter(k + jitter, ml, s=3, color=colour, alpha=0.8, linewidth=0)
        ax.plot([k - 0.3, k + 0.3], [np.median(ml)] * 2, color="0.1", lw=1.2, zorder=5)
    ax.set(xticks=[], ylabel="")
    ax.locator_params(axis="y", nbins=4)


def label(region: str) -> str:
    """What a column is called in print: "left_gm" is "left grey matter"."""
    return " ".join(WORDS.get(word, word) for word in region.split("_"))
