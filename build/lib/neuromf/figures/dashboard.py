"""The dashboard of a run: whether a MeanFlow training is healthy, at a glance.

Steps are optimiser steps. Losses are raw, mean squared errors per element of a latent, except where "weighted" is
said: the adaptive weight makes that one flat whatever the training does. Times run from 0 (data) to 1 (noise), and
h = t - r. A look is a step at which the diagnostics closed a stretch and probed the network.
"""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator

from neuromf.figures import style

COLUMNS = ("step", "quantity", "t", "h", "part", "value")  # of the diagnostics, in this order
EDGES = (0, 0.25, 0.5, 0.75, 1)
BINS = tuple(f"{low:g}-{high:g}" for low, high in zip(EDGES[:-1], EDGES[1:], strict=True))
COLOURS = [matplotlib.colormaps["viridis"](k) for k in (0.0, 0.35, 0.65, 0.88)]  # of the bins of t
ALARM = style.PALETTE[3]
CHANNELS = [colour for colour in style.PALETTE if colour != ALARM]
DASHES = (0, (3, 1))

RATIO_BOUND = 2.0  # of the alarm "ratio"
SPREAD = (0.9, 1.1)  # where the deviation of one-step samples over that of the data should be

NO_PAIRS, NO_LOOKS = "no pairs with $r < t$", "no diagnostics"
SMALL: dict[str, Any] = {"fontsize": 7, "va": "top", "path_effects": [withStroke(linewidth=2, foreground="white")]}


def dashboard(history: pd.DataFrame, diagnostics: pd.DataFrame) -> Figure:
    """Losses, ratios, derivatives and one-step samples over a training, in nine panels.

    Arguments:
        history: One row per logged stretch, with columns step, loss (weighted), raw_fm, raw_mf (mean raw loss of pairs
            with r = t, and with r < t) and both by t, raw_fm_t0-0.25 to raw_mf_t0.75-1; NaN where no pair fell.
        diagnostics: One row per look and measure, with columns step, quantity, t, h, part and value, as
            `neuromf.diagnostics` lists them; no rows where nothing was watched.
    """
    looks = tidy(diagnostics)
    fig = style.new(style.PAGE, 6.9)
    grid = fig.add_gridspec(3, 3)
    axes = [fig.add_subplot(grid[k]) for k in range(9)]
    losses(axes[0], history)
    alarms(axes[0], looks)
    losses_by_t(axes[1], history)
    for ax, (quantity, panel, names) in zip(axes[2:], PANELS, strict=True):
        ax.set(**names)
        if select(looks, quantity).empty:
            say(ax, missing(looks, quantity))
        else:
            panel(ax, looks)
    name_panels(axes, last=max([1, *history["step"], *looks["step"]]))
    lines = [Line2D([], [], color=colour, label=f"$t$ in {name}") for name, colour in zip(BINS, COLOURS, strict=True)]
    fig.legend(handles=[Line2D([], [], ls="", label="b, c, e, i:"), *lines], loc="outside lower center", ncols=5)
    return fig


def tidy(diagnostics: pd.DataFrame) -> pd.DataFrame:
    """Rows with text in t, h and part and a float in value, also where empty cells have come back from CSV as NaN."""
    table = diagnostics.reindex(columns=list(COLUMNS))
    for name in ("t", "h", "part"):
        table[name] = ["" if pd.isna(cell) else str(cell) for cell in table[name]]
    return table.astype({"value": float})


def select(looks: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Rows of one quantity."""
    return looks[looks["quantity"] == quantity]


def kinds(history: pd.DataFrame) -> list[tuple[str, str, object]]:
    """Kinds of pairs, with their names, or word that there are none, and the style of their lines."""
    moving = NO_PAIRS if history["raw_mf"].isna().all() else "$r < t$"
    return [("fm", "$r = t$", "-"), ("mf", moving, DASHES)]


def losses(ax: Axes, history: pd.DataFrame) -> None:
    """Raw losses, full and black for r = t, dashed and blue for r < t, over the weighted one in grey."""
    draw(ax, history["step"], history["loss"], color="0.8", label="weighted")
    for (kind, name, dashes), colour in zip(kinds(history), ("0.1", style.PALETTE[0]), strict=True):
        label = name if name == NO_PAIRS else f"raw, {name}"
        draw(ax, history["step"], history[f"raw_{kind}"], color=colour, ls=dashes, lw=1, label=label)
    ax.set_ylabel("loss per element")
    decades(ax)
    above(ax)


def alarms(ax: Axes, looks: pd.DataFrame) -> None:
    """A vertical line at every look that raised an alarm; its name, and at how many looks, right of the first."""
    rows, free = select(looks, "alarm"), -np.inf
    gap = 0.075 * looks["step"].max() if len(looks) else 0.0  # between names, so that they can be read
    for step in rows["step"].unique():
        ax.axvline(step, color=ALARM, lw=0.6, alpha=0.6, zorder=1)
    for name, found in sorted(rows.groupby("part")["step"], key=lambda item: item[1].min()):
        free = max(found.min(), free + gap)
        text = name if len(found) == 1 else f"{name} ({len(found)} looks)"
        ax.text(free, 0.97, text, color=ALARM, transform=ax.get_xaxis_transform(), rotation=90, **SMALL)
    if rows.empty:
        ax.text(0.99, 0.97, NO_LOOKS if looks.empty else "no alarm", ha="right", transform=ax.transAxes, **SMALL)


def losses_by_t(ax: Axes, history: pd.DataFrame) -> None:
    """Raw losses by t, full for r = t, dashed for r < t."""
    for kind, name, dashes in kinds(history):
        for t, colour in zip(BINS, COLOURS, strict=True):
            draw(ax, history["step"], history[f"raw_{kind}_t{t}"], color=colour, ls=dashes, lw=1)
        ax.plot([], [], color="0.3", ls=dashes, lw=1, label=name)
    ax.set(ylabel="raw loss per element")
    decades(ax)
    above(ax)


def ratios(ax: Axes, looks: pd.DataFrame) -> None:
    """Raw loss of pairs with r < t over that of pairs with r = t, by t, with 1 and the bound of the alarm."""
    by_t(ax, select(looks, "ratio"))
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)
    bound(ax, RATIO_BOUND)
    decades(ax)


def ratio_map(ax: Axes, looks: pd.DataFrame) -> None:
    """The same ratio at the last look that has pairs, by t and h; red above 1, blue below, bold above the bound."""
    step = select(looks, "ratio")["step"].max()
    mean = looks[looks["step"] == step].groupby(["quantity", "t", "h"])["value"].last().unstack("h")
    ratio = mean.loc["raw_mf"].div(mean.loc["raw_fm"][""], axis=0).reindex(BINS, columns=BINS).T.to_numpy()
    ax.pcolormesh(EDGES, EDGES, ratio, cmap="RdBu_r", norm=LogNorm(1 / 8, 8), edgecolor="white", lw=1)
    for h, t in np.argwhere(np.isfinite(ratio)):
        weight = "bold" if ratio[h, t] > RATIO_BOUND else "normal"
        ink = "white" if abs(np.log2(ratio[h, t])) > 2 else "black"
        centre = t / 4 + 0.125, h / 4 + 0.125
        ax.text(*centre, f"{ratio[h, t]:.2g}", ha="center", va="center", fontsize=8, fontweight=weight, color=ink)
    ax.set(xticks=EDGES, yticks=EDGES)
    ax.set_title(f"ratio of (c) at step {step:.0f}", loc="left", fontsize=8)


def derivatives(ax: Axes, looks: pd.DataFrame) -> None:
    """Both parts of du/dt over the velocity, by t: full along z, dashed along t, with the bound of the latter."""
    for quantity, label, dashes in (("spatial", "along $z$", "-"), ("temporal", "along $t$", DASHES)):
        by_t(ax, select(looks, quantity), ls=dashes)
        ax.plot([], [], color="0.3", ls=dashes, lw=1, label=label)
    decades(ax)
    above(ax)


def endpoint(ax: Axes, looks: pd.DataFrame) -> None:
    """Distance between one-step and many-step samples of the same noise, over the spread of the latter."""
    rows = select(looks, "endpoint")
    draw(ax, rows["step"], rows["value"], color="0.1", label="one step against many")
    decades(ax)
    above(ax)


def spread(ax: Axes, looks: pd.DataFrame) -> None:
    """Standard deviation of one-step samples over that of the data, by channel, with the band it should be in."""
    rows = select(looks, "latent_std")
    ax.axhspan(*SPREAD, color="0.9", lw=0, zorder=0)
    for channel, found in rows.groupby(rows["part"].astype(float).astype(int)):
        label = str(channel) if channel else "channel 0"
        draw(ax, found["step"], found["value"], color=CHANNELS[channel % len(CHANNELS)], lw=1, label=label)
    above(ax, ncols=4)


def spectra(ax: Axes, looks: pd.DataFrame) -> None:
    """Power of one-step samples over that of the data against frequency, one line per look, darker with the step."""
    rows = select(looks, "spectrum")
    shades = matplotlib.colormaps["Blues"](np.linspace(1, 0.25, rows["step"].nunique())[::-1])
    ends = rows["step"].min(), rows["step"].max()
    for (step, found), shade in zip(rows.groupby("step"), shades, strict=True):
        label = f"step {step:.0f}" if step in ends else None
        draw(ax, found["part"].astype(float), found["value"], color=shade, lw=1, label=label)
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)
    decades(ax)
    above(ax)


def learned(ax: Axes, looks: pd.DataFrame) -> None:
    """Raw loss of pairs that are the same at every look over that before the first step, by t."""
    rows = select(looks, "fixed_fm")
    before = rows[rows["step"] == rows["step"].min()].set_index("t")["value"]
    by_t(ax, rows.assign(value=rows["value"] / rows["t"].map(before)))
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)


PANELS = (  # what must have rows, who draws them, and the axes, over optimiser steps where no xlabel is given
    ("ratio", ratios, {"ylabel": "raw $r < t$ / raw $r = t$"}),
    ("ratio", ratio_map, {"xlabel": "$t$", "ylabel": "$h = t - r$"}),
    ("temporal", derivatives, {"ylabel": "rms $du/dt$ / rms $v$"}),
    ("endpoint", endpoint, {"ylabel": "distance / spread"}),
    ("latent_std", spread, {"ylabel": "one-step std / data std"}),
    ("spectrum", spectra, {"xlabel": "cycles per position", "ylabel": "one-step / data power"}),
    ("fixed_fm", learned, {"ylabel": "raw $r = t$ / untrained"}),
)


def draw(ax: Axes, x: pd.Series, y: pd.Series, **look: Any) -> None:
    """A line through what is not NaN, its points marked where they are few."""
    known = y.notna()
    ax.plot(x[known], y[known], marker="." if 0 < known.sum() < 6 else None, **look)


def by_t(ax: Axes, rows: pd.DataFrame, **look: Any) -> None:
    """One line over steps for each bin of t, in its colour."""
    for t, colour in zip(BINS, COLOURS, strict=True):
        found = rows[rows["t"] == t]
        draw(ax, found["step"], found["value"], color=colour, lw=1, **look)


def bound(ax: Axes, value: float, of: str = "") -> None:
    """Dashed line of an alarm, with its name below it at the left."""
    ax.axhline(value, color=ALARM, ls="--", lw=0.8, zorder=1)
    ax.text(0.03, value / 1.04, f"alarm above {value:g}{of}", color=ALARM, transform=ax.get_yaxis_transform(), **SMALL)


def missing(looks: pd.DataFrame, quantity: str) -> str:
    """Why there are no rows of a quantity."""
    if looks.empty or quantity != "ratio":
        return NO_LOOKS
    return NO_PAIRS if select(looks, "raw_mf").empty else "no pairs with $r = t$"


def say(ax: Axes, text: str) -> None:
    """Words in place of a panel's data."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=8, color=style.LIMIT)
    ax.set(xticks=[], yticks=[])


def name_panels(axes: list[Axes], last: float) -> None:
    """Letters, labels in one size, and optimiser steps from 0 to the last in every panel that has no x-axis yet."""
    for ax, name in zip(axes, "abcdefghi", strict=True):
        style.letter(ax, name)
        if not ax.get_xlabel():
            ax.set(xlabel="optimiser step", xlim=(0, 1.02 * last))
            ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)


def decades(ax: Axes) -> None:
    """Logarithmic axis with numbers written out: at 1, 2, 5 where it spans little, else at powers of ten."""
    ax.set(yscale="log")
    low, high = ax.get_ylim()
    widen = max(1, np.sqrt(5 / (high / low)))
    ax.set_ylim(low / widen, high * widen)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 60 else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")


def above(ax: Axes, ncols: int = 2) -> None:
    """Legend in a row above the axes, where no line can pass."""
    tight = {"columnspacing": 0.9, "handlelength": 1.2, "handletextpad": 0.4, "borderaxespad": 0, "borderpad": 0.2}
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, **tight)
