"""Figure F2: which loss and which decoder lose the latent, and which latents predict the volume of the tumour."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neuromf.figures import style
from neuromf.vae.collapse import AU_FRACTION, BYPASS, COLLAPSED_BYPASS, COLLAPSED_KL, KL_NATS

LABELS = {
    "sum": "sum",
    "mean": "mean",
    "free_bits": "mean, free bits",
    "dip1": "mean, DIP-I",
    "dip2": "mean, DIP-II",
    "broadcast": "mean, broadcast",
    "standard": "mean, resize conv.",
    "supervised": "sum, supervised",
}
COLOURS = {"healthy": style.PALETTE[2], "suspect": style.PALETTE[1], "collapsed": style.PALETTE[3]}
# Panels: column, axis label, bounds of healthy and of collapsed latents.
PANELS: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("au_frac", "active units / d", AU_FRACTION, None),
    ("kl_raw", "KL (nats)", KL_NATS, COLLAPSED_KL),
    ("bypass_ratio", "bypass ratio", BYPASS, COLLAPSED_BYPASS),
    ("r2_log_volume", "$R^2$ of ln V", 0.0, None),
)
LOWEST_R2 = -1.0


def render(*, table: Path, out: Path, simulated: str = "", **config: Any) -> None:
    """Draw the table of the collapse study (csv); `simulated` is what the figure states about its data."""
    style.save(draw(pd.read_csv(table), simulated), out, config | {"simulated": simulated})


def draw(rows: pd.DataFrame, simulated: str = "") -> Figure:
    """Active units, KL, bypass ratio and R^2 of the volume by arm, one bar per arm (mean) and one point per seed.

    Arguments:
        rows: One row per arm and seed, columns arm, seed, verdict and those of `PANELS`.
        simulated: Statement at the foot.
    """
    arms = [arm for arm in LABELS if arm in set(rows["arm"])]
    fig = style.new(style.PAGE, 1.3 + 0.28 * len(arms))
    axes = fig.subplots(1, len(PANELS), sharey=True)
    for ax, letter, (column, label, healthy, collapsed) in zip(axes, "abcd", PANELS, strict=True):
        _panel(ax, rows, arms, column)
        for bound, dashes in ((healthy, "--"), (collapsed, ":")):
            if bound is not None:
                ax.axvline(bound, color=style.LIMIT, ls=dashes, lw=0.8)
        ax.set_xlabel(label, fontsize=9)
        style.letter(ax, letter, left=8)
    axes[0].set_yticks(range(len(arms)), [LABELS[arm] for arm in arms])
    axes[0].invert_yaxis()
    states = [state for state in COLOURS if state in set(rows["verdict"])]
    handles: list[Artist] = [Patch(color=COLOURS[state], label=state) for state in states]
    handles += [Line2D([], [], color=style.LIMIT, ls="--", lw=0.8, label="healthy above"),
                Line2D([], [], color=style.LIMIT, ls=":", lw=0.8, label="collapsed below")]  # fmt: skip
    fig.legend(handles=handles, loc="outside upper right", ncols=len(handles), columnspacing=1.2)
    if simulated:
        fig.supxlabel(simulated, x=0.01, ha="left", fontsize=7, style="italic")
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, arms: list[str], column: str) -> None:
    """One bar per arm in the colour of its worst verdict; R^2 below -1 ends at the axis."""
    worst = list(COLOURS)
    for k, arm in enumerate(arms):
        part = rows[rows["arm"] == arm]
        state = max(part["verdict"], key=worst.index)
        values = part[column].to_numpy(float)
        if column == "r2_log_volume":
            values = np.maximum(values, LOWEST_R2)
        ax.barh(k, values.mean(), color=COLOURS[state], height=0.7)
        ax.plot(values, [k] * len(values), "o", color="0.1", ms=2.5, clip_on=False)
