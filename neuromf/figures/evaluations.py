"""Figure 4: distance against the number of network evaluations, one step against many, and what figures 5 and 6 share.

A table holds one row per arm, seed, number of evaluations and metric, as of an ablation; an arm that was not measured
has a row without a metric, and is named in small type under the figure.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullLocator

from neuromf.figures import style
from neuromf.figures.torus import plain

NAMES = {"meanflow": "MeanFlow", "rectified": "Rectified Flow", "x": "$x$-prediction", "u": "$u$-prediction"}
LABELS = {"frechet": "Fréchet distance", "pair_ms_ssim": "MS-SSIM of pairs"}
MARKERS, DASHES = "osD^v", ("-", (0, (4, 1.5)), (0, (1, 1)), "-.", (0, (6, 1, 1, 1, 1, 1)))


def fig_4(table: pd.DataFrame, metric: str, features: str = "", quoted: pd.DataFrame | None = None) -> Figure:
    """Distance against evaluations, a line per arm: mean and standard deviation over seeds, or of one run its redraws.

    Redraws are the middle 95 % of bootstrap samples. Those repeat volumes, so they lie above the distance of the set
    itself, the more the fewer volumes there are: a range of luck, drawn without claiming to be around the value.

    Arguments:
        table: Columns arm, seed, nfe (text), metric, features, n, value, low and high (of redraws).
        metric: The distance that is drawn, with its features.
        quoted: Published models, columns model, nfe, value, source; drawn open and named as quoted. Their numbers must
            be of the same metric, features and number of volumes.
    """
    rows = drawn(table, metric, features)
    fig = style.new(style.COLUMN, 3.1)
    ax = fig.add_subplot()
    for k, (arm, part) in enumerate(rows.groupby("arm", sort=False)):
        line(ax, part, arm, k)
    floor(ax, table, metric, features)
    if quoted is not None:
        quotations(ax, quoted)
    ticks = apart(rows["evaluations"], () if quoted is None else quoted["nfe"])
    ax.set(xscale="log", xlabel="network evaluations", ylabel=label(metric, features))
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ratios(ax, rows)
    if ax.get_legend_handles_labels()[0]:
        fig.legend(loc="outside upper left", borderaxespad=0.3)
    name_missing(fig, table)
    return fig


def apart(first: Iterable[int], then: Iterable[int], factor: float = 1.7) -> list[int]:
    """Ticks of a logarithmic axis: all of the first numbers, and of the others those with room for their own."""
    ticks = sorted(set(first))
    for n in sorted(set(then)):
        if all(max(n / tick, tick / n) >= factor for tick in ticks):
            ticks.append(n)
    return sorted(ticks)


def line(ax: Axes, rows: pd.DataFrame, arm: str, k: int) -> None:
    """One arm: its means over seeds, and how far they scatter."""
    look = {"color": style.PALETTE[k % 10], "marker": MARKERS[k % 5], "ls": DASHES[k % 5]}
    seeds, sizes = rows["seed"].nunique(), "/".join(str(int(n)) for n in sorted(set(rows["n"])))
    means, spread = over_seeds(rows, "evaluations")
    about = f"{seeds} seeds, mean and s.d." if seeds > 1 else "1 seed, redraws"
    ax.plot(means.index, means, label=f"{NAMES.get(arm, arm)} ({sizes} volumes; {about})", **look)
    if seeds > 1:
        ax.errorbar(means.index, means, yerr=spread, fmt="none", ecolor=look["color"], capsize=2, elinewidth=0.9)
    else:
        redraws = rows.dropna(subset=["low", "high"])
        ax.vlines(
            redraws["evaluations"], redraws["low"], redraws["high"], lw=2.5, color=look["color"], alpha=0.3, zorder=1
        )


def floor(ax: Axes, table: pd.DataFrame, metric: str, features: str) -> None:
    """The same distance of people who were not trained on, where it was measured."""
    real = table[(table["nfe"] == "real") & (table["metric"] == metric) & (table["features"] == features)]
    if len(real):
        n = int(real["n"].iloc[0])
        ax.axhline(
            real["value"].mean(), color=style.LIMIT, ls=":", lw=1.2, label=f"real people, held out ({n} volumes)"
        )


def quotations(ax: Axes, quoted: pd.DataFrame) -> None:
    """Numbers of others, open and grey."""
    for (model, source), rows in quoted.groupby(["model", "source"], sort=False):
        look: dict[str, Any] = {"marker": "P", "ls": "none", "mfc": "none", "color": style.LIMIT, "ms": 6}
        ax.plot(rows["nfe"], rows["value"], label=f"{model} (quoted: {source})", **look)


# --- what figures 5 and 6 share ----------------------------------------------------------------------


def drawn(table: pd.DataFrame, metric: str, features: str = "") -> pd.DataFrame:
    """Rows of one metric of generated volumes, with `evaluations` as a number."""
    rows = table[(table["metric"] == metric) & (table["features"] == features) & table["nfe"].str.isdigit()]
    return rows.assign(evaluations=rows["nfe"].astype(int)).sort_values("evaluations", kind="stable")


def ratios(ax: Axes, rows: pd.DataFrame) -> None:
    """A logarithmic axis of values, written out; of a distance that can be negative, an ordinary one."""
    if (rows["value"] > 0).all():
        ax.set_yscale("log")
        plain(ax.yaxis)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))


def over_seeds(rows: pd.DataFrame, by: str) -> tuple[pd.Series, pd.Series]:
    """Mean and standard deviation over seeds of the values at each x; the deviation of one seed is NaN."""
    groups = rows.groupby(by)["value"]
    return groups.mean(), groups.std(ddof=1)


def label(metric: str, features: str = "") -> str:
    """What an axis says of a metric: with its features, since distances of other features are other numbers."""
    return "\n".join(filter(None, (LABELS.get(metric, metric), features and f"({features})")))


def absent(table: pd.DataFrame) -> Iterator[str]:
    """Arms without metrics: those without any by name, and the seeds that others lack."""
    gone = table["metric"] == ""
    for arm, rows in table[gone].groupby("arm", sort=False):
        seeds = ", ".join(str(seed) for seed in rows["seed"])
        some = arm in set(table.loc[~gone, "arm"])
        yield f"{NAMES.get(arm, arm)}, seed {seeds}" if some else NAMES.get(arm, arm)


def name_missing(fig: Figure | SubFigure, table: pd.DataFrame) -> None:
    """Small type under the figure that names what was not measured, where anything was not."""
    if names := "; ".join(absent(table)):
        fig.supxlabel(f"missing: {names}", x=0.01, ha="left", fontsize=6.5, style="italic")
