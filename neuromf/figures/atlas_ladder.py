"""Figure F2 of the atlas: the ladder in bits per focus, from a uniform rate to the model, and completion."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuromf.atlas.guards import statement
from neuromf.figures import style

LABELS = {
    "uniform": "uniform",
    "global": "global KDE",
    "topics": "topic KDEs",
    "ridge": "ridge, topics",
    "own": "own foci KDE",
    "model": "C-VAE",
}
TITLES = {"conditional": "From metadata alone", "completion": "From half of the foci"}
MODEL = style.PALETTE[3]
BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def render(*, results: Path, out: Path, **config: Any) -> None:  # noqa: ANN401  # provenance
    """Draw test_results.json, with what its scale states about the data."""
    found = json.loads(Path(results).read_text(encoding="utf-8"))
    stamp = statement(found["provenance"]["scale"])
    style.save(draw(found["bits"], stamp), out, config | {"provenance": found["provenance"], "statement": stamp})


def draw(bits: dict[str, dict], stamp: str = "") -> Figure:
    """One panel per mode: scores with 95 % intervals, and the paired difference to the best classical model.

    Arguments:
        bits: Part `bits` of test_results.json.
        stamp: Statement at the foot.
    """
    fig = style.new(style.PAGE, 2.9)
    axes = fig.subplots(1, 2)
    for ax, mode, letter in zip(axes, TITLES, "ab", strict=True):
        _panel(ax, bits[mode], TITLES[mode])
        style.letter(ax, letter, left=20)
    if stamp:
        fig.supxlabel(stamp, x=0.01, ha="left", fontsize=7, style="italic")
    return fig


def _panel(ax: Axes, rows: dict[str, Any], title: str) -> None:
    """Points with intervals; the interval is that of the studies, the difference is paired by study."""
    names = [name for name in LABELS if name in rows]
    ax.axvline(rows[rows["best"]]["value"], color=style.LIMIT, ls="--", lw=0.7, zorder=0)
    for k, name in enumerate(names):
        row, colour = rows[name], MODEL if name == "model" else style.LIMIT
        ax.errorbar(row["value"], k, xerr=[[row["value"] - row["low"]], [row["high"] - row["value"]]], fmt="o", ms=4,
                    capsize=2, color=colour, lw=1)  # fmt: skip
        ax.annotate(_signed(row["value"], ""), (row["value"], k), xytext=(0, 5), textcoords="offset points",
                    ha="center", fontsize=7, color=colour, bbox=BLANK)  # fmt: skip
    ax.set_yticks(range(len(names)), [LABELS[name] for name in names])
    ax.set_ylim(len(names) - 0.4, -0.8)
    ax.margins(x=0.12)
    ax.set_xlabel("bits per focus (higher is better)")
    difference = rows["difference"]
    ax.set_title(f"{title}, {rows['n_studies']} studies", loc="left", fontsize=9)
    value, low, high = (_signed(difference[name], "+") for name in ("value", "low", "high"))
    ax.text(0.02, 0.03, f"C-VAE minus {LABELS[rows['best']]}:\n{value} [{low}, {high}]", transform=ax.transAxes,
            fontsize=7.5, va="bottom", color=MODEL, bbox=BLANK)  # fmt: skip


def _signed(value: float, sign: str) -> str:
    """A number with three decimals and a typographic minus; `sign` is "+" to write the sign of positive numbers."""
    return f"{value:{sign}.3f}".replace("-", "\N{MINUS SIGN}")
