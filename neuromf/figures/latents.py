"""The latents of a study at a glance: are they near enough to N(0, 1), and how many ways do people differ in?

Latents are posterior means of the training people; "s.d." is the standard deviation of a channel over people and
positions. Posteriors are those of held-out people.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from neuromf.figures import style

CHANNELS = style.PALETTE
LEAST = 1e-4  # density below which a histogram is not drawn
NOTHING = 1e-9  # share of variance that is rounding


def latents(stats: dict, validation: dict) -> Figure:
    """Histograms, correlations, principal components and posterior widths, in four panels.

    Arguments:
        stats: As of `neuromf.latents.statistics`: histogram (edges in s.d., counts per channel), skewness, kurtosis,
            correlation (C x C), pca_share (of the variance over people), effective_rank and n (people).
        validation: As of `neuromf.metrics.roundtrip.validate`: sigma_inside and sigma_outside (mean posterior standard
            deviation per channel inside and outside the head, in s.d.).
    """
    fig = style.new(style.PAGE, 4.8)
    grid = fig.add_gridspec(2, 2)
    histograms(fig.add_subplot(grid[0, 0]), stats)
    correlations(fig.add_subplot(grid[0, 1]), stats["correlation"])
    components(fig.add_subplot(grid[1, 0]), stats)
    posteriors(fig.add_subplot(grid[1, 1]), validation)
    return fig


def histograms(ax: Axes, stats: dict) -> None:
    """Density of each channel, its mean and s.d. taken out, over that of N(0, 1)."""
    edges = np.asarray(stats["histogram"]["edges"])
    for c, counts in enumerate(stats["histogram"]["counts"]):
        density = np.asarray(counts) / (np.sum(counts) * np.diff(edges))
        density[density < LEAST] = np.nan
        label = f"{c + 1} (${stats['skewness'][c]:+.1f}$, ${stats['kurtosis'][c]:+.1f}$)"
        ax.stairs(density, edges, baseline=None, color=CHANNELS[c], lw=1, label=label)
    z = np.linspace(edges[0], edges[-1], 201)
    ax.plot(z, np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), color=style.LIMIT, ls="--", lw=1, label="N(0, 1)")
    ax.set(xlabel="latent (s.d.)", ylabel="density", yscale="log", xlim=(edges[0], edges[-1]), ylim=(LEAST, 3e4))
    ax.set_xticks(np.linspace(edges[0], edges[-1], 5))
    ax.set_yticks([1e-4, 1e-2, 1])
    ax.legend(
        title="channel (skewness, excess kurtosis)", title_fontsize=8, loc="upper center", ncols=2, columnspacing=1
    )
    plain(ax.yaxis)
    style.letter(ax, "a")


def correlations(ax: Axes, correlation: Sequence[Sequence[float]]) -> None:
    """Correlation of every two channels over people and positions, written into its cell."""
    matrix = np.asarray(correlation)
    ticks = range(len(matrix))
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(matrix):
        ax.text(j, i, f"${value:.2f}$", ha="center", va="center", fontsize=8, color="w" if abs(value) > 0.6 else "k")
    ax.set(xlabel="channel", ylabel="channel")
    ax.set_xticks(ticks, [str(c + 1) for c in ticks])
    ax.set_yticks(ticks, [str(c + 1) for c in ticks])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, aspect=16)
    bar.set_label("correlation")
    bar.outline.set_linewidth(0.5)
    style.letter(ax, "b")


def components(ax: Axes, stats: dict) -> None:
    """Share of the variance over people along each principal component, and along all up to it."""
    share = np.asarray(stats["pca_share"])
    share = share[share > NOTHING]  # the last is none: people less one is all that their differences span
    number = np.arange(1, len(share) + 1)
    ax.plot(number, np.cumsum(share), color=CHANNELS[0], label="all up to it")
    ax.plot(number, share, color=CHANNELS[1], label="this component")
    rank = stats["effective_rank"]
    ax.axvline(rank, color=style.LIMIT, ls="--", lw=1, label=f"effective rank {rank:.0f} (of {stats['n']})")
    ax.set(xscale="log", yscale="log", xlabel="principal component", ylabel="share of variance")
    ax.set(xlim=(1, max(len(share), 2)), ylim=(0.3 * share.min(), 1.3))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain(ax.xaxis)
    plain(ax.yaxis)
    ax.legend(loc="lower left", borderaxespad=0.2)
    style.letter(ax, "c")


def posteriors(ax: Axes, validation: dict) -> None:
    """Mean posterior standard deviation of each channel, inside the head and outside."""
    kinds = (("inside the head", "sigma_inside", CHANNELS[0], -1), ("outside", "sigma_outside", style.REAL, 1))
    n = len(validation["sigma_inside"])
    for label, name, colour, side in kinds:
        values = [np.nan if value is None else value for value in validation[name]]
        ax.bar(np.arange(1, n + 1) + 0.19 * side, values, 0.36, color=colour, label=label)
    ax.set(xlabel="channel", ylabel="posterior width (s.d.)")
    ax.set_xticks(range(1, n + 1))
    ax.tick_params(axis="x", length=0)
    ax.margins(y=0.25)
    ax.legend(loc="upper right", ncols=2, borderaxespad=0.2)
    style.letter(ax, "d")


def plain(axis: Axis) -> None:
    """Ticks of a logarithmic axis written out, without those between."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
