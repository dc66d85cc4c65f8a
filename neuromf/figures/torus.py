"""Figure 2: MeanFlow on the torus, where the right answer is known."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from mpl_toolkits.mplot3d import Axes3D

from neuromf.figures import style

GATE = 0.1  # mean distance to the torus that a one-step model must beat

PAIRS = {"raw_r_equals_t": ("$r = t$", "-"), "raw_r_below_t": ("$r < t$", (0, (3, 1)))}


def fig_2(history: pd.DataFrame, samples: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Losses, one-step samples, their angles, and distance against evaluations, in four panels.

    Arguments:
        history: One row per arm and epoch, with columns step, prediction, dim, raw_r_equals_t and
            raw_r_below_t (mean squared errors per dimension).
        samples: One row per point, with columns source ("real" or "one step"), angles a and b (radians),
            distance to the torus, and x, y, z of the ring view (unitless); prediction and dim name its arm.
        summary: One row per arm and number of evaluations, with columns prediction, dim, evaluations and
            mean_distance (unitless), and p-values ks_p_a, ks_p_b of the angles' uniformity.
    """
    fig = style.new(style.PAGE, 4.8)
    grid = fig.add_gridspec(2, 2)
    losses(fig.add_subplot(grid[0, 0]), history)
    torus(fig.add_subplot(grid[0, 1], projection="3d", computed_zorder=False), samples)
    angle_histograms(fig.add_subplot(grid[1, 0]), samples, summary)
    distances(fig.add_subplot(grid[1, 1]), summary)
    return fig


def arms(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Label, colour and rows of each arm, in the order of their first row."""
    groups = table.groupby(["prediction", "dim"], sort=False)
    return [
        (f"${prediction}$, $D = {dim}$", style.PALETTE[k], rows) for k, ((prediction, dim), rows) in enumerate(groups)
    ]


def losses(ax: Axes, history: pd.DataFrame) -> None:
    """Raw losses against the optimiser step: one colour per arm, full for r = t, dashed for r < t."""
    for label, colour, rows in arms(history):
        for column, (_, dashes) in PAIRS.items():
            ax.plot(rows["step"], rows[column], color=colour, ls=dashes, lw=1, label=label if dashes == "-" else None)
    for name, dashes in PAIRS.values():
        ax.plot([], [], color="0.3", ls=dashes, lw=1, label=name)
    ax.set(yscale="log", xlabel="optimiser step", ylabel="raw loss per dimension")
    ax.legend(ncols=2, loc="upper right", columnspacing=1.2, borderaxespad=0)
    plain(ax.yaxis)
    style.letter(ax, "a")


def torus(ax: Axes3D, samples: pd.DataFrame) -> None:
    """One-step points in the ring view, coloured by their distance, on the torus they should lie on."""
    points = one_step(samples)
    ax.plot_wireframe(*surface(), color="0.82", lw=0.3, rcount=48, ccount=20, clip_on=False, zorder=1)
    dots = ax.scatter(
        points["x"],
        points["y"],
        points["z"],
        c=points["distance"],
        vmin=0,
        vmax=2 * GATE,
        cmap="viridis",
        s=4,
        lw=0,
        clip_on=False,
    )
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
    """The torus itself in the ring view, as three (n, n) grids."""
    a, b = np.meshgrid(*[np.linspace(0, 2 * np.pi, n)] * 2, indexing="ij")
    return (2 + np.cos(b)) * np.cos(a), (2 + np.cos(b)) * np.sin(a), np.sin(b)


def one_step(samples: pd.DataFrame) -> pd.DataFrame:
    """The generated points."""
    return samples[samples["source"] == "one step"]


def angle_histograms(ax: Axes, samples: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Densities of both angles of the one-step points, over that of the uniform law."""
    points, bins = one_step(samples), np.linspace(-np.pi, np.pi, 19)
    row = summary.merge(points[["prediction", "dim"]].head(1)).set_index("evaluations").loc[1]
    for k, name in enumerate("ab"):
        density, _ = np.histogram(points[name], bins, density=True)
        label = f"${name}$, KS $p = {row[f'ks_p_{name}']:.2g}$"
        ax.stairs(density, bins, baseline=None, lw=1.3, color=style.PALETTE[k], label=label)
    ax.axhline(1 / (2 * np.pi), color=style.LIMIT, ls="--", lw=1, label="uniform")
    ax.set(xlabel="angle (rad)", ylabel="density", xlim=(-np.pi, np.pi), ylim=(0, 0.25))
    ax.set_xticks([-np.pi, 0, np.pi], ["$-\\pi$", "0", "$\\pi$"])
    ax.legend(loc="lower center", borderaxespad=0.2)
    style.letter(ax, "c")


def distances(ax: Axes, summary: pd.DataFrame) -> None:
    """Mean distance to the torus against network evaluations, one line per arm, with the gate."""
    for (label, colour, rows), marker in zip(arms(summary), "osD^v" * 3, strict=False):
        ax.plot(rows["evaluations"], rows["mean_distance"], color=colour, marker=marker, label=label)
    ax.axhline(GATE, color=style.LIMIT, ls="--", lw=1, label=f"gate, {GATE}")
    ax.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="mean distance to torus")
    ticks = sorted(summary["evaluations"].unique())
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    plain(ax.yaxis)
    ax.legend(loc="lower left", borderaxespad=0.2)
    style.letter(ax, "d")


def plain(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each decade, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
