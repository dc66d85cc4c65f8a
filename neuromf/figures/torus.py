"""Figure 2: MeanFlow on a torus, whose true distribution is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from mpl_toolkits.mplot3d import Axes3D

from neuromf.figures import style

GATE = 0.1  # largest mean distance to the torus of one-step samples
PAIRS = {"raw_r_equals_t": ("$r = t$", "-"), "raw_r_below_t": ("$r < t$", (0, (3, 1)))}


def render(*, history: Path, samples: Path, summary: Path, out: Path, **config: Any) -> None:
    """Draw figure 2 from the tables (csv) that `draw` describes."""
    style.save(draw(*(pd.read_csv(path) for path in (history, samples, summary))), out, config)


def draw(history: pd.DataFrame, samples: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Losses, one-step samples, their angles, and distance to the torus against NFE, in four panels.

    Arguments:
        history: One row per arm and epoch, columns step, prediction, dim, raw_r_equals_t and raw_r_below_t (mean
            squared errors per dimension).
        samples: One row per point, columns source ("real" or "one step"), angles a and b (radians), distance to the
            torus, x, y, z of the ring view (unitless), prediction and dim.
        summary: One row per arm and NFE, columns prediction, dim, nfe, mean_distance (unitless), and ks_p_a, ks_p_b
            (p-values of uniform angles).
    """
    fig = style.new(style.PAGE, 4.8)
    grid = fig.add_gridspec(2, 2)
    _losses(fig.add_subplot(grid[0, 0]), history)
    _ring_view(fig.add_subplot(grid[0, 1], projection="3d", computed_zorder=False), samples)
    _angles(fig.add_subplot(grid[1, 0]), samples, summary)
    _distances(fig.add_subplot(grid[1, 1]), summary)
    return fig


def _arms(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Label, colour and rows of each arm, in the order of their first row."""
    groups = table.groupby(["prediction", "dim"], sort=False)
    return [(f"${of}$, $D = {dim}$", style.PALETTE[k], rows) for k, ((of, dim), rows) in enumerate(groups)]


def _losses(ax: Axes, history: pd.DataFrame) -> None:
    """Draw raw losses against the optimiser step: one colour per arm, solid for r = t, dashed for r < t."""
    for label, colour, rows in _arms(history):
        for column, (_, dashes) in PAIRS.items():
            ax.plot(rows["step"], rows[column], color=colour, ls=dashes, lw=1, label=label if dashes == "-" else None)
    for name, dashes in PAIRS.values():
        ax.plot([], [], color="0.3", ls=dashes, lw=1, label=name)
    ax.set(yscale="log", xlabel="optimiser step", ylabel="raw loss per dimension")
    ax.legend(ncols=2, loc="upper right", columnspacing=1.2, borderaxespad=0)
    style.plain_ticks(ax.yaxis, subs=(1, 2, 5))
    style.letter(ax, "a")


def _ring_view(ax: Axes3D, samples: pd.DataFrame) -> None:
    """Draw one-step samples in the ring view, coloured by their distance to the torus, with the torus itself."""
    points = samples[samples["source"] == "one step"]
    ax.plot_wireframe(*surface(), color="0.82", lw=0.3, rcount=48, ccount=20, clip_on=False, zorder=1)
    look = {"vmin": 0, "vmax": 2 * GATE, "cmap": "viridis", "s": 4, "lw": 0, "clip_on": False}
    dots = ax.scatter(points["x"], points["y"], points["z"], c=points["distance"], **look)
    ax.set_axis_off()
    ax.set(xlim=(-3, 3), ylim=(-3, 3), zlim=(-1.2, 1.2))
    ax.set_box_aspect((6, 6, 2.4), zoom=1.4)
    ax.view_init(elev=42, azim=-60)
    bar = ax.figure.colorbar(dots, ax=ax, shrink=0.75, aspect=16, pad=0.06, extend="max")
    bar.set_label("distance to torus")
    bar.set_ticks([0, GATE, 2 * GATE])
    bar.outline.set_linewidth(0.5)
    style.letter(ax, "b")


def surface(n: int = 121) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and z of the torus in the ring view, each of shape (n, n)."""
    a, b = np.meshgrid(*[np.linspace(0, 2 * np.pi, n)] * 2, indexing="ij")
    return (2 + np.cos(b)) * np.cos(a), (2 + np.cos(b)) * np.sin(a), np.sin(b)


def _angles(ax: Axes, samples: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Draw the densities of both angles of the one-step samples, with the uniform density."""
    points, bins = samples[samples["source"] == "one step"], np.linspace(-np.pi, np.pi, 19)
    row = summary.merge(points[["prediction", "dim"]].head(1)).set_index("nfe").loc[1]
    for k, name in enumerate("ab"):
        density, _ = np.histogram(points[name], bins, density=True)
        label = f"${name}$, KS $p = {row[f'ks_p_{name}']:.2g}$"
        ax.stairs(density, bins, baseline=None, lw=1.3, color=style.PALETTE[k], label=label)
    ax.axhline(1 / (2 * np.pi), color=style.LIMIT, ls="--", lw=1, label="uniform")
    ax.set(xlabel="angle (rad)", ylabel="density", xlim=(-np.pi, np.pi), ylim=(0, 0.25))
    ax.set_xticks([-np.pi, 0, np.pi], ["$-\\pi$", "0", "$\\pi$"])
    ax.legend(loc="lower center", borderaxespad=0.2)
    style.letter(ax, "c")


def _distances(ax: Axes, summary: pd.DataFrame) -> None:
    """Draw the mean distance to the torus against NFE, one line per arm, with the bound of the gate."""
    for (label, colour, rows), marker in zip(_arms(summary), "osD^v" * 3, strict=False):
        ax.plot(rows["nfe"], rows["mean_distance"], color=colour, marker=marker, label=label)
    ax.axhline(GATE, color=style.LIMIT, ls="--", lw=1, label=f"gate, {GATE}")
    ax.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="mean distance to torus")
    ticks = sorted(summary["nfe"].unique())
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    style.plain_ticks(ax.yaxis, subs=(1, 2, 5))
    ax.legend(loc="lower left", borderaxespad=0.2)
    style.letter(ax, "d")
