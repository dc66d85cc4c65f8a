"""Figure 4: distance against the number of network evaluations (NFE), one line per arm."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from neuromf.figures import arms, names, style
from neuromf.metrics.table import read_rows

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), "-.", (0, (6, 1, 1, 1, 1, 1)))


def render(*, table: Path, out: Path, **config: Any) -> None:
    """Draw figure 4 from the metrics of all arms (csv), as of `neuromf.metrics.ablations.gather`.

    Arguments:
        config: distance (metric and features), and published (csv, see `draw`) or None.
    """
    published = pd.read_csv(config["published"]) if config["published"] else None
    style.save(draw(read_rows(table), **config["distance"], published=published), out, config)


def draw(table: pd.DataFrame, metric: str, features: str = "", published: pd.DataFrame | None = None) -> Figure:
    """Distance against NFE: mean and standard deviation over seeds, or the bootstrap interval of a single seed.

    Bootstrap resamples contain duplicates, which biases distances upwards. The interval of a single seed is drawn as a
    band of its own and may lie above the value.

    Arguments:
        table: Columns arm, seed, set, nfe, metric, features, n, value, low and high.
        metric, features: Distance on the y-axis.
        published: Models of the literature, columns model, nfe, value and source, drawn as open grey marks. They must
            have the same metric, features and number of volumes.
    """
    rows = arms.of_samples(table, metric, features)
    fig = style.new(style.COLUMN, 3.1)
    ax = fig.add_subplot()
    for k, (arm, part) in enumerate(rows.groupby("arm", sort=False)):
        _line(ax, part, arm, k)
    arms.draw_test(ax, table, metric, features, label=f"{names.TEST} ({{n}} volumes)")
    if published is not None:
        _published(ax, published)
    ticks = spaced(rows["nfe"], () if published is None else published["nfe"])
    ax.set(xscale="log", xlabel="network evaluations", ylabel=arms.label(metric, features))
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    arms.scale_values(ax, rows["value"])
    arms.finish(fig, table)
    return fig


def spaced(first: Iterable[int], others: Iterable[int], factor: float = 1.7) -> list[int]:
    """Ticks of a logarithmic axis: all first numbers, and the others that lie a factor away from every tick."""
    ticks = sorted(set(first))
    for n in sorted(set(others)):
        if all(max(n / tick, tick / n) >= factor for tick in ticks):
            ticks.append(n)
    return sorted(ticks)


def _line(ax: Axes, rows: pd.DataFrame, arm: str, k: int) -> None:
    """Draw the k-th arm: means and standard deviations over seeds, or values and bootstrap intervals of one seed."""
    look = {"color": style.PALETTE[k % 10], "marker": arms.MARKERS[k % 5], "ls": DASHES[k % 5]}
    seeds, sizes = rows["seed"].nunique(), "/".join(str(int(n)) for n in sorted(set(rows["n"])))
    spread = f"{seeds} seeds, mean and s.d." if seeds > 1 else "1 seed, bootstrap"
    arms.draw_means(ax, *arms.over_seeds(rows, "nfe"), f"{names.arm(arm)} ({sizes} volumes; {spread})", **look)
    if seeds == 1:
        known = rows.dropna(subset=["low", "high"])
        ax.vlines(known["nfe"], known["low"], known["high"], lw=2.5, color=look["color"], alpha=0.3, zorder=1)


def _published(ax: Axes, table: pd.DataFrame) -> None:
    """Draw published values as open grey marks."""
    for (model, source), rows in table.groupby(["model", "source"], sort=False):
        label = f"{model} (published: {source})"
        ax.plot(rows["nfe"], rows["value"], "P", mfc="none", color=style.LIMIT, ms=6, label=label)
