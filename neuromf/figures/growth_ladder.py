"""Figure F6: the ladder on real volumes: skill, gain of every rung with its interval, coverage and interval score."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from neuromf.figures import style

PANELS = (
    ("skill", "skill over LOCF", 0.0),
    ("cov95", "95 % coverage", 0.95),
    ("is95", "95 % interval score", None),
)
LOWEST_SKILL = -1.0  # the population mean lies below


def render(*, folder: Path, out: Path, **config: Any) -> None:
    """Draw the study of real volumes in a folder."""
    study = json.loads((folder / "study.json").read_text())
    figure = draw(pd.read_csv(folder / "scores.csv"), study["rungs"], study["data"], study["counts"])
    style.save(figure, out, config | {"data": study["data"], "counts": study["counts"], "verdicts": study["verdicts"]})


def draw(scores: pd.DataFrame, rungs: list[dict[str, Any]], data: str, counts: dict[str, int]) -> Figure:
    """Scores of the last visit from the rest, and the change of skill from each rung to the next.

    Arguments:
        scores: Rows of `neuromf.growth.ladder.score_models`.
        rungs: Rows of `neuromf.growth.ladder.decompose`.
        data, counts: What the volumes are, and how many patients, readings and zero volumes there are.
    """
    rows = scores[(scores["protocol"] == "last_from_rest") & (scores["horizon"] == "all")]
    fig = style.new(style.PAGE, 1.5 + 0.3 * len(rows))
    axes = fig.subplots(1, len(PANELS) + 1, sharey=True)
    for ax, letter, (column, label, bound) in zip(axes, "abc", PANELS, strict=False):
        values = rows[column].to_numpy(float)
        shown = np.maximum(values, LOWEST_SKILL) if column == "skill" else values
        if column == "cov95":  # its axis does not start at 0, so no bars
            ax.plot(values, range(len(rows)), "o", color=style.PALETTE[0], ms=5)
        else:
            ax.barh(range(len(rows)), shown, color=style.PALETTE[0], height=0.7)
        for k in np.flatnonzero(shown > values):
            ax.text(shown[k], k, f" \N{MINUS SIGN}{-values[k]:.1f}", va="center", fontsize=7, color="white")
        if bound is not None:
            ax.axvline(bound, color=style.LIMIT, ls="--", lw=0.8)
        ax.set_xlabel(label, fontsize=9)
        style.letter(ax, letter, left=8)
    axes[1].set_xlim(0.85, 1)
    _gains(axes[-1], [*rows["model"]], rungs)
    style.letter(axes[-1], "d", left=8)
    axes[0].set_yticks(range(len(rows)), rows["title"])
    axes[0].invert_yaxis()
    text = f"{data}: {{patients:,}} patients, {{readings:,}} readings; {{zero_volumes}} zero volumes apart"
    fig.supxlabel(text.format(**counts), x=0.01, ha="left", fontsize=7, style="italic")
    return fig


def _gains(ax: Any, models: list[str], rungs: list[dict[str, Any]]) -> None:  # noqa: ANN401  # axes
    """Change of skill from the rung above, with its 95 % interval; filled where the model earns its place."""
    for rung in rungs:
        k, low, high = models.index(rung["to"]), rung["low"], rung["high"]
        ax.plot([low, high], [k, k], color="0.3", lw=1)
        face = style.PALETTE[2] if rung["earned"] else "white"
        ax.plot(rung["skill"], k, "o", mfc=face, mec="0.2", ms=5)
    ax.axvline(0, color=style.LIMIT, ls="--", lw=0.8)
    ax.set_xscale("symlog", linthresh=0.1)
    ends = [value for rung in rungs for value in (rung["low"], rung["high"], 0.1)]
    ax.set_xlim(2 * min(*ends, -0.1), 2 * max(ends))
    ticks = [-10, -1, -0.1, 0, 0.1, 1, 10]
    inside = [tick for tick in ticks if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
    ax.set_xticks(inside, [f"{tick:g}".replace("-", "\N{MINUS SIGN}").replace("0.", ".") for tick in inside])
    ax.minorticks_off()
    ax.set_xlabel("gain over row above\n(filled: earned)", fontsize=9)
