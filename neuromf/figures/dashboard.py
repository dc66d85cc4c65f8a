"""Dashboard of a training: losses, ratios, derivatives, one-step samples and alarms.

Steps are optimiser steps. Losses are raw, mean squared errors per element of a latent, unless called "weighted": the
adaptive weight keeps the weighted loss flat. Times run from 0 (data) to 1 (noise), and h = t - r. Diagnostics evaluate
the network at a few steps, the evaluation steps, and summarise the losses since the last one.
"""

from pathlib import Path
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

COLUMNS = ("step", "quantity", "t", "h", "part", "value")  # of the diagnostics
EDGES = (0, 0.25, 0.5, 0.75, 1)
BINS = tuple(f"{low:g}-{high:g}" for low, high in zip(EDGES[:-1], EDGES[1:], strict=True))
COLOURS = [matplotlib.colormaps["viridis"](k) for k in (0.0, 0.35, 0.65, 0.88)]  # of the bins of t
ALARM = style.PALETTE[3]
CHANNELS = [colour for colour in style.PALETTE if colour != ALARM]
DASHES = (0, (3, 1))

RATIO_BOUND = 2.0  # of the alarm "ratio"
SPREAD = (0.9, 1.1)  # target of std of one-step samples / std of the data

NO_PAIRS, NO_DIAGNOSTICS = "no pairs with $r < t$", "no diagnostics"
SMALL: dict[str, Any] = {"fontsize": 7, "va": "top", "path_effects": [withStroke(linewidth=2, foreground="white")]}


def render(*, history: Path, diagnostics: Path, out: Path, **config: Any) -> None:
    """Draw the dashboard of a run from the tables (csv) that `draw` describes."""
    style.save(draw(pd.read_csv(history), read_diagnostics(diagnostics)), out, config)


def read_diagnostics(path: Path) -> pd.DataFrame:
    """Diagnostics of a run. Quantity, t, h and part are text, even if all are numbers. The file may be empty."""
    text = dict.fromkeys(("quantity", "t", "h", "part"), str)
    missing = {"value": ["", "nan"]}
    return pd.read_csv(path, names=COLUMNS, header=0, dtype=text, keep_default_na=False, na_values=missing)


def draw(history: pd.DataFrame, diagnostics: pd.DataFrame) -> Figure:
    """Losses, ratios, derivatives and one-step samples over a training, in nine panels.

    Arguments:
        history: One row per logged window, columns step, loss (weighted), raw_fm, raw_mf (mean raw loss of pairs with
            r = t, and with r < t) and both by t, raw_fm_t0-0.25 to raw_mf_t0.75-1; NaN for a window without pairs.
        diagnostics: One row per evaluation step and quantity, columns step, quantity, t, h, part and value, as of
            `neuromf.meanflow.diagnostics`; no rows if diagnostics were off.
    """
    fig = style.new(style.PAGE, 6.9)
    grid = fig.add_gridspec(3, 3)
    axes = [fig.add_subplot(grid[k]) for k in range(9)]
    _losses(axes[0], history)
    _alarms(axes[0], diagnostics)
    _losses_by_t(axes[1], history)
    last = FIXED_PAIRS if select(diagnostics, "validation").empty else VALIDATION
    for ax, (quantity, panel, labels) in zip(axes[2:], (*PANELS, last), strict=True):
        ax.set(**labels)
        if select(diagnostics, quantity).empty:
            _note(ax, _reason(diagnostics, quantity))
        else:
            panel(ax, diagnostics)
    _finish(axes, last=max([1, *history["step"], *diagnostics["step"]]))
    lines = [Line2D([], [], color=colour, label=f"$t$ in {name}") for name, colour in zip(BINS, COLOURS, strict=True)]
    fig.legend(handles=[Line2D([], [], ls="", label="b, c, e, i:"), *lines], loc="outside lower center", ncols=5)
    return fig


def select(diagnostics: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Rows of one quantity."""
    return diagnostics[diagnostics["quantity"] == quantity]


def _kinds(history: pd.DataFrame) -> list[tuple[str, str, object]]:
    """Column, label and line style of pairs with r = t and with r < t."""
    below = NO_PAIRS if history["raw_mf"].isna().all() else "$r < t$"
    return [("fm", "$r = t$", "-"), ("mf", below, DASHES)]


def _losses(ax: Axes, history: pd.DataFrame) -> None:
    """Draw raw losses, solid black for r = t and dashed blue for r < t, and the weighted loss in grey."""
    _line(ax, history["step"], history["loss"], color="0.8", label="weighted")
    for (kind, name, dashes), colour in zip(_kinds(history), ("0.1", style.PALETTE[0]), strict=True):
        label = name if name == NO_PAIRS else f"raw, {name}"
        _line(ax, history["step"], history[f"raw_{kind}"], color=colour, ls=dashes, lw=1, label=label)
    ax.set_ylabel("loss per element")
    _log_axis(ax)
    _legend(ax)


def _alarms(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw a line at every step with an alarm; the name of an alarm and its number of steps stand at its first step."""
    rows, x = select(diagnostics, "alarm"), -np.inf
    gap = 0.075 * diagnostics["step"].max() if len(diagnostics) else 0.0  # between names that would overlap
    for step in rows["step"].unique():
        ax.axvline(step, color=ALARM, lw=0.6, alpha=0.6, zorder=1)
    for name, steps in sorted(rows.groupby("part")["step"], key=lambda item: item[1].min()):
        x = max(steps.min(), x + gap)
        text = name if len(steps) == 1 else f"{name} ({len(steps)} steps)"
        ax.text(x, 0.97, text, color=ALARM, transform=ax.get_xaxis_transform(), rotation=90, **SMALL)
    if rows.empty:
        text = NO_DIAGNOSTICS if diagnostics.empty else "no alarm"
        ax.text(0.99, 0.97, text, ha="right", transform=ax.transAxes, **SMALL)


def _losses_by_t(ax: Axes, history: pd.DataFrame) -> None:
    """Draw raw losses by t, solid for r = t, dashed for r < t."""
    for kind, name, dashes in _kinds(history):
        for t, colour in zip(BINS, COLOURS, strict=True):
            _line(ax, history["step"], history[f"raw_{kind}_t{t}"], color=colour, ls=dashes, lw=1)
        ax.plot([], [], color="0.3", ls=dashes, lw=1, label=name)
    ax.set(ylabel="raw loss per element")
    _log_axis(ax)
    _legend(ax)


def _ratios(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the raw loss of pairs with r < t over that of pairs with r = t, by t, with the bound of the alarm."""
    _lines_by_t(ax, select(diagnostics, "ratio"))
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)
    _bound(ax, RATIO_BOUND)
    _log_axis(ax)


def _ratio_map(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the ratio of the last step with pairs, by t and h: red above 1, blue below, bold above the bound."""
    step = select(diagnostics, "ratio")["step"].max()
    mean = diagnostics[diagnostics["step"] == step].groupby(["quantity", "t", "h"])["value"].last().unstack("h")
    ratio = mean.loc["raw_mf"].div(mean.loc["raw_fm"][""], axis=0).reindex(BINS, columns=BINS).T.to_numpy()
    ax.pcolormesh(EDGES, EDGES, ratio, cmap="RdBu_r", norm=LogNorm(1 / 8, 8), edgecolor="white", lw=1)
    for h, t in np.argwhere(np.isfinite(ratio)):
        weight = "bold" if ratio[h, t] > RATIO_BOUND else "normal"
        ink = "white" if abs(np.log2(ratio[h, t])) > 2 else "black"
        centre = t / 4 + 0.125, h / 4 + 0.125
        ax.text(*centre, f"{ratio[h, t]:.2g}", ha="center", va="center", fontsize=8, fontweight=weight, color=ink)
    ax.set(xticks=EDGES, yticks=EDGES)
    ax.set_title(f"ratio of (c) at step {step:.0f}", loc="left", fontsize=8)


def _derivatives(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw both parts of du/dt over the velocity, by t: solid along z, dashed along t."""
    for quantity, label, dashes in (("spatial", "along $z$", "-"), ("temporal", "along $t$", DASHES)):
        _lines_by_t(ax, select(diagnostics, quantity), ls=dashes)
        ax.plot([], [], color="0.3", ls=dashes, lw=1, label=label)
    _log_axis(ax)
    _legend(ax)


def _endpoint(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the distance between one-step and many-step samples of the same noise, over the spread of the latter."""
    rows = select(diagnostics, "endpoint")
    _line(ax, rows["step"], rows["value"], color="0.1", label="one step against many")
    _log_axis(ax)
    _legend(ax)


def _spread(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the standard deviation of one-step samples over that of the data, by channel, with its target band."""
    rows = select(diagnostics, "latent_std")
    ax.axhspan(*SPREAD, color="0.9", lw=0, zorder=0)
    for channel, part in rows.groupby(rows["part"].astype(float).astype(int)):
        label = str(channel) if channel else "channel 0"
        _line(ax, part["step"], part["value"], color=CHANNELS[channel % len(CHANNELS)], lw=1, label=label)
    _legend(ax, ncols=4)


def _spectra(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the power of one-step samples over that of the data by frequency, one line per step, later ones darker."""
    rows = select(diagnostics, "spectrum")
    shades = matplotlib.colormaps["Blues"](np.linspace(1, 0.25, rows["step"].nunique())[::-1])
    ends = rows["step"].min(), rows["step"].max()
    for (step, part), shade in zip(rows.groupby("step"), shades, strict=True):
        label = f"step {step:.0f}" if step in ends else None
        _line(ax, part["part"].astype(float), part["value"], color=shade, lw=1, label=label)
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)
    _log_axis(ax)
    _legend(ax)


def _fixed_pairs(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the raw loss of fixed pairs over their loss before the first step, by t."""
    rows = select(diagnostics, "fixed_fm")
    before = rows[rows["step"] == rows["step"].min()].set_index("t")["value"]
    _lines_by_t(ax, rows.assign(value=rows["value"] / rows["t"].map(before)))
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)


def _validation(ax: Axes, diagnostics: pd.DataFrame) -> None:
    """Draw the posterior error of validation participants over that of the prior alone, one line per time t."""
    error = select(diagnostics, "validation").pivot_table(index=["t", "step"], columns="part", values="value")
    ratio = error["network"] / error.get("prior", error["network"].groupby("t").transform("first"))
    for t, part in ratio.groupby("t"):
        part = part.droplevel("t")
        _line(ax, part.index.to_series(), part, color=COLOURS[min(int(4 * float(t)), 3)], lw=1)
        ax.annotate(f"$t$ = {t}", (part.index[-1], part.iloc[-1]), ha="right", **SMALL)
    ax.axhline(1, color=style.LIMIT, lw=0.8, zorder=1)


PANELS = (  # quantity that must have rows, drawing function, axis labels (x-axis: optimiser step by default)
    ("ratio", _ratios, {"ylabel": "raw $r < t$ / raw $r = t$"}),
    ("ratio", _ratio_map, {"xlabel": "$t$", "ylabel": "$h = t - r$"}),
    ("temporal", _derivatives, {"ylabel": "rms $du/dt$ / rms $v$"}),
    ("endpoint", _endpoint, {"ylabel": "distance / spread"}),
    ("latent_std", _spread, {"ylabel": "one-step std / data std"}),
    ("spectrum", _spectra, {"xlabel": "cycles per position", "ylabel": "one-step / data power"}),
)
FIXED_PAIRS = ("fixed_fm", _fixed_pairs, {"ylabel": "raw $r = t$ / untrained"})  # last panel without validation
VALIDATION = ("validation", _validation, {"ylabel": "validation error / prior"})


def _line(ax: Axes, x: pd.Series, y: pd.Series, **look: Any) -> None:
    """Draw a line through the values that are not NaN, with points if there are fewer than six."""
    known = y.notna()
    ax.plot(x[known], y[known], marker="." if 0 < known.sum() < 6 else None, **look)


def _lines_by_t(ax: Axes, rows: pd.DataFrame, **look: Any) -> None:
    """Draw one line over steps for each bin of t, in its colour."""
    for t, colour in zip(BINS, COLOURS, strict=True):
        part = rows[rows["t"] == t]
        _line(ax, part["step"], part["value"], color=colour, lw=1, **look)


def _bound(ax: Axes, value: float) -> None:
    """Draw the bound of an alarm as a dashed line with a label."""
    ax.axhline(value, color=ALARM, ls="--", lw=0.8, zorder=1)
    ax.text(0.03, value / 1.04, f"alarm above {value:g}", color=ALARM, transform=ax.get_yaxis_transform(), **SMALL)


def _reason(diagnostics: pd.DataFrame, quantity: str) -> str:
    """Reason why a quantity has no rows."""
    if diagnostics.empty or quantity != "ratio":
        return NO_DIAGNOSTICS
    return NO_PAIRS if select(diagnostics, "raw_mf").empty else "no pairs with $r = t$"


def _note(ax: Axes, text: str) -> None:
    """Write a text in an empty panel."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=8, color=style.LIMIT)
    ax.set(xticks=[], yticks=[])


def _finish(axes: list[Axes], last: float) -> None:
    """Add panel letters, set the size of labels, and label x-axes without a label with the optimiser step."""
    for ax, name in zip(axes, "abcdefghi", strict=True):
        style.letter(ax, name)
        if not ax.get_xlabel():
            ax.set(xlabel="optimiser step", xlim=(0, 1.02 * last))
            ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)


def _log_axis(ax: Axes) -> None:
    """Set a logarithmic y-axis with plain numbers, at 1, 2, 5 on a short range, else at powers of ten."""
    ax.set(yscale="log")
    low, high = ax.get_ylim()
    widen = max(1, np.sqrt(5 / (high / low)))
    ax.set_ylim(low / widen, high * widen)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 60 else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")


def _legend(ax: Axes, ncols: int = 2) -> None:
    """Add a legend above the axes."""
    tight = {"columnspacing": 0.9, "handlelength": 1.2, "handletextpad": 0.4, "borderaxespad": 0, "borderpad": 0.2}
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, **tight)
