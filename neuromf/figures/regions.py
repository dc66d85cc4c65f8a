"""Figure 8: volumes of brain regions of real and generated brains."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuromf.figures import names, style

COLUMNS = 5
WORDS = {"gm": "grey matter", "wm": "white matter", "csf": "CSF"}


def render(*, volumes: Path, out: Path, **config: Any) -> None:
    """Draw figure 8 from the table (csv) that `draw` describes."""
    style.save(draw(pd.read_csv(volumes)), out, config)


def draw(volumes: pd.DataFrame) -> Figure:
    """One panel per region, one violin per set, with one dot per brain and a line at the median.

    Arguments:
        volumes: One row per brain and region, columns scan, set, region and ml (millilitres). Sets and regions keep the
            order of their first row; the first set is real and drawn in grey.
    """
    regions, sets = list(dict.fromkeys(volumes["region"])), list(dict.fromkeys(volumes["set"]))
    n_rows = -(-len(regions) // COLUMNS)
    fig = style.new(style.PAGE, 1.55 * n_rows + 0.35)
    axes = fig.subplots(n_rows, min(COLUMNS, len(regions)), squeeze=False).ravel()
    colours = dict(zip(sets, [style.REAL, *style.PALETTE], strict=False))
    for ax, region in zip(axes, regions, strict=False):
        _panel(ax, volumes[volumes["region"] == region], colours)
        ax.set_xlabel(label(region), fontsize=8)
    for ax in axes[len(regions) :]:
        ax.set_axis_off()
    for ax in axes[::COLUMNS]:
        ax.set_ylabel("volume (ml)")
    dots = [
        Line2D([], [], ls="", marker="o", ms=5, color=colour, label=names.SETS.get(name, name))
        for name, colour in colours.items()
    ]
    fig.legend(handles=dots, loc="outside upper center", ncols=len(sets), handletextpad=0.2, columnspacing=1.4)
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, colours: dict[str, Any]) -> None:
    """Draw the distributions of one region side by side."""
    sets = list(colours)
    sns.violinplot(
        data=rows, x="set", y="ml", order=sets, hue="set", hue_order=sets, legend=False, ax=ax,
        palette=list(colours.values()), inner=None, cut=0, density_norm="width", linewidth=0, alpha=0.35,
    )  # fmt: skip
    for k, (name, colour) in enumerate(colours.items()):
        ml = rows.loc[rows["set"] == name, "ml"].to_numpy()
        jitter = np.random.default_rng(k).uniform(-0.18, 0.18, len(ml))  # seaborn's differs from run to run
        ax.scatter(k + jitter, ml, s=3, color=colour, alpha=0.8, linewidth=0)
        ax.plot([k - 0.3, k + 0.3], [np.median(ml)] * 2, color="0.1", lw=1.2, zorder=5)
    ax.set(xticks=[], ylabel="")
    ax.locator_params(axis="y", nbins=4)


def label(region: str) -> str:
    """Display name of a region, such as "left grey matter" for left_gm."""
    return " ".join(WORDS.get(word, word) for word in region.split("_"))
