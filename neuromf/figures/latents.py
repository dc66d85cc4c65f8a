"""Figure of the latents: distance from N(0, 1), correlations, principal components and posterior widths.

Latents are posterior means of the training participants. Values are in standard deviations (s.d.) of a channel over
participants and positions. Posteriors are those of the validated scans.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from neuromf.figures import style

CHANNELS = style.PALETTE
LEAST_DENSITY = 1e-4  # lower limit of the histograms
ROUNDING = 1e-9  # fraction of variance below which a component is rounding error


def render(*, stats: Path, validation: Path, out: Path, **config: Any) -> None:
    """Draw the figure from the statistics and the validation (JSON) that `draw` describes."""
    style.save(draw(*(json.loads(path.read_text()) for path in (stats, validation))), out, config)


def draw(stats: dict, validation: dict) -> Figure:
    """Histograms, correlations, principal components and posterior widths, in four panels.

    Arguments:
        stats: As of `neuromf.vae.statistics`: histogram (edges in s.d., counts per channel), skewness, kurtosis,
            correlation (C x C), pca_fraction (fractions of the variance over participants), effective_rank and n.
        validation: As of the validation of the autoencoder: sigma_inside and sigma_outside (mean posterior standard
            deviation of each channel inside and outside the brain, in s.d.).
    """
    fig = style.new(style.PAGE, 4.8)
    grid = fig.add_gridspec(2, 2)
    _histograms(fig.add_subplot(grid[0, 0]), stats)
    _correlations(fig.add_subplot(grid[0, 1]), stats["correlation"])
    _components(fig.add_subplot(grid[1, 0]), stats)
    _posteriors(fig.add_subplot(grid[1, 1]), validation)
    return fig


def _histograms(ax: Axes, stats: dict) -> None:
    """Draw the density of each standardised channel with that of N(0, 1)."""
    edges = np.asarray(stats["histogram"]["edges"])
    for c, counts in enumerate(stats["histogram"]["counts"]):
        density = np.asarray(counts) / (np.sum(counts) * np.diff(edges))
        density[density < LEAST_DENSITY] = np.nan
        label = f"{c + 1} (${stats['skewness'][c]:+.1f}$, ${stats['kurtosis'][c]:+.1f}$)"
        ax.stairs(density, edges, baseline=None, color=CHANNELS[c], lw=1, label=label)
    z = np.linspace(edges[0], edges[-1], 201)
    ax.plot(z, np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), color=style.LIMIT, ls="--", lw=1, label="N(0, 1)")
    ax.set(
        xlabel="latent (s.d.)", ylabel="density", yscale="log", xlim=(edges[0], edges[-1]), ylim=(LEAST_DENSITY, 3e4)
    )
    ax.set_xticks(np.linspace(edges[0], edges[-1], 5))
    ax.set_yticks([1e-4, 1e-2, 1])
    ax.legend(
        title="channel (skewness, excess kurtosis)", title_fontsize=8, loc="upper center", ncols=2, columnspacing=1
    )
    style.plain_ticks(ax.yaxis)
    style.letter(ax, "a")


def _correlations(ax: Axes, correlation: Sequence[Sequence[float]]) -> None:
    """Draw the correlations of channels over participants and positions as a matrix with numbers."""
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


def _components(ax: Axes, stats: dict) -> None:
    """Draw the fraction of variance over participants of each principal component, and the cumulative fraction."""
    fraction = np.asarray(stats["pca_fraction"])
    fraction = fraction[fraction > ROUNDING]  # n participants span n - 1 components
    number = np.arange(1, len(fraction) + 1)
    ax.plot(number, np.cumsum(fraction), color=CHANNELS[0], label="cumulative")
    ax.plot(number, fraction, color=CHANNELS[1], label="this component")
    rank = stats["effective_rank"]
    ax.axvline(rank, color=style.LIMIT, ls="--", lw=1, label=f"effective rank {rank:.0f} (of {stats['n']})")
    ax.set(xscale="log", yscale="log", xlabel="principal component", ylabel="fraction of variance")
    ax.set(xlim=(1, max(len(fraction), 2)), ylim=(0.3 * fraction.min(), 1.3))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    style.plain_ticks(ax.xaxis)
    style.plain_ticks(ax.yaxis)
    ax.legend(loc="lower left", borderaxespad=0.2)
    style.letter(ax, "c")


def _posteriors(ax: Axes, validation: dict) -> None:
    """Draw the mean posterior standard deviation of each channel inside and outside the brain."""
    kinds = (("inside the brain", "sigma_inside", CHANNELS[0], -1), ("outside", "sigma_outside", style.REAL, 1))
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
