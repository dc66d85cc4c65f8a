"""Parts that the figures of ablations share: values of arms, their seeds, the test participants, and missing arms.

Tables have one row per arm, seed, set and metric, as `neuromf.metrics.ablations.gather` writes them. An arm that was
not measured has a row with an empty metric; the figure names it in small type at its foot.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from neuromf.figures import names, style
from neuromf.metrics.table import SAMPLES, select_set

MARKERS = "osD^v"


def of_samples(table: pd.DataFrame, metric: str, features: str = "") -> pd.DataFrame:
    """Rows of one metric of generated volumes, in order of NFE."""
    rows = table[(table["metric"] == metric) & (table["features"] == features) & (table["set"] == SAMPLES)]
    return rows.astype({"nfe": int}).sort_values("nfe", kind="stable")


def over_seeds(rows: pd.DataFrame, by: str) -> tuple[pd.Series, pd.Series]:
    """Mean and standard deviation over seeds of the values at each x; NaN deviation for one seed."""
    groups = rows.groupby(by)["value"]
    return groups.mean(), groups.std(ddof=1)


def draw_means(ax: Axes, means: pd.Series, deviations: pd.Series, label: str, **look: Any) -> None:
    """Draw means, and error bars of one standard deviation if there are several seeds; `look` goes to the line."""
    ax.plot(means.index, means, label=label, **look)
    if deviations.notna().any():
        ax.errorbar(means.index, means, yerr=deviations, fmt="none", ecolor=look["color"], capsize=2, elinewidth=0.9)


def draw_test(ax: Axes, table: pd.DataFrame, metric: str, features: str, *, label: str) -> None:
    """Draw the value of the test participants as a dotted line, if measured; the label may name {n} volumes."""
    rows = select_set(table, "test")
    rows = rows[(rows["metric"] == metric) & (rows["features"] == features)]
    if len(rows):
        label = label.format(n=int(rows["n"].iloc[0]))
        ax.axhline(rows["value"].mean(), color=style.LIMIT, ls=":", lw=1.2, label=label)


def label(metric: str, features: str = "") -> str:
    """Axis label of a metric; the second line names its features."""
    return "\n".join(filter(None, (names.metric(metric), features and f"({features})")))


def scale_values(ax: Axes, values: pd.Series) -> None:
    """A logarithmic y-axis with plain numbers; a linear one if a value is not positive."""
    if (values > 0).all():
        ax.set_yscale("log")
        style.plain_ticks(ax.yaxis, subs=(1, 1.5, 2, 3, 5, 7))


def finish(fig: Figure | SubFigure, table: pd.DataFrame) -> None:
    """Add the legend above the axes, and the names of missing arms at the foot."""
    if any(ax.get_legend_handles_labels()[0] for ax in fig.axes):
        fig.legend(loc="outside upper left", borderaxespad=0.3)
    name_missing(fig, table)


def name_missing(fig: Figure | SubFigure, table: pd.DataFrame) -> None:
    """Name arms and seeds that were not measured at the foot of the figure."""
    if text := "; ".join(_missing(table)):
        fig.supxlabel(f"missing: {text}", x=0.01, ha="left", fontsize=6.5, style="italic")


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """Arms without any metrics, and seeds without metrics of the other arms."""
    missing = table["metric"] == ""
    for arm, rows in table[missing].groupby("arm", sort=False):
        seeds = ", ".join(str(seed) for seed in rows["seed"])
        partial = arm in set(table.loc[~missing, "arm"])
        yield names.arm(arm) + (f", seed {seeds}" if partial else "")
