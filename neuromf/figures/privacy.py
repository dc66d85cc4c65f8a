"""Figure of the privacy audit: the samples closest to a training scan, and distances to the nearest training scan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, names, style
from neuromf.figures.samples import read_mirrored
from neuromf.metrics.privacy import IMAGE_FEATURES, closest_pairs
from neuromf.metrics.table import read_rows, select_set

SETS = {"test": (names.TEST, style.REAL), "samples": ("generated", style.PALETTE[0])}  # display name, colour
TITLES = ("generated", "nearest", "difference")
WIDTH = 0.98  # of a panel, in inches
SPAN = 0.5  # intensity difference at the ends of the colour scale


def render(*, nearest: Path, metrics: Path, out: Path, spacing_mm: float, n_pairs: int = 3, **config: Any) -> None:
    """Draw the figure from the outputs privacy and metrics of `neuromf.metrics.evaluation.evaluate_run`.

    Arguments:
        nearest: Nearest training scan of each sample and test scan (csv).
        metrics: Metrics of the run (csv), with the privacy audit of one-step samples.
        n_pairs: Number of closest pairs that are drawn.
        spacing_mm: Voxel size.
    """
    table, rows = pd.read_csv(nearest), select_set(read_rows(metrics), 1)
    audit = rows[rows["features"] == IMAGE_FEATURES].set_index("metric")
    auc = audit.loc["membership_auc"]
    values = audit["value"].to_dict() | {"membership_low": auc["low"], "membership_high": auc["high"]}
    closest = closest_pairs(table, n_pairs).to_dict("records")
    samples = brains.read(pair["file"] for pair in closest)
    pairs = list(zip(samples, read_mirrored(pd.DataFrame(closest)), strict=True))
    captions = [f"{pair['relative']:.2f}" + ", mirrored" * bool(pair["view"]) for pair in closest]
    facts = {"n_pairs": n_pairs, "spacing_mm": spacing_mm, "audit": values, "closest": closest}
    style.save(draw(pairs, captions, table, values, spacing_mm), out, config | facts)


def draw(
    pairs: Sequence[tuple[NDArray, NDArray]],
    captions: Sequence[str],
    distances: pd.DataFrame,
    audit: Mapping[str, float],
    spacing_mm: float,
) -> Figure:
    """Axial slices of the closest pairs, one per row, and histograms of the distance to the nearest training scan.

    Arguments:
        pairs: Generated volume and training scan (I, J, K) in [0, 1], RAS+; the training scan is mirrored if its mirror
            image is nearer.
        captions: Text beside each pair.
        distances: One row per volume, columns set, distance (to the nearest training scan, in the unit of the
            features), and relative (distance over that to the second nearest).
        audit: AUC of membership inference and its interval: membership_auc, membership_low and membership_high.
        spacing_mm: Voxel size.
    """
    crop = brains.box([volume for pair in pairs for volume in pair])
    aspect = (crop[1].stop - crop[1].start) / (crop[0].stop - crop[0].start)  # of an axial slice
    fig = style.new(style.PAGE, max(WIDTH * aspect * len(pairs) + 0.6, 2.8))
    widths = (3 * WIDTH + 0.35, style.PAGE - 3 * WIDTH - 0.35)
    left, right = fig.subfigures(1, 2, width_ratios=widths)  # type: ignore[misc]  # two are asked for
    slices = [[brains.cut(volume, "axial", crop, spacing_mm) for volume in pair] for pair in pairs]
    _pairs(left, slices, captions)
    top, bottom = right.subplots(2, 1)
    _histograms(top, distances, "distance", "distance to nearest training scan")
    _histograms(bottom, distances, "relative", "nearest over second nearest")
    auc = "membership AUC {membership_auc:.2f}\n[{membership_low:.2f}, {membership_high:.2f}]".format(**audit)
    top.text(0.98, 0.97, auc, transform=top.transAxes, ha="right", va="top", fontsize=8)
    bottom.legend(loc="upper left", borderaxespad=0.2)
    style.letter(top, "b")
    style.letter(bottom, "c")
    return fig


def _pairs(fig: Figure, slices: Sequence[Sequence[NDArray]], captions: Sequence[str]) -> None:
    """Draw one row per pair: generated, training scan, and their difference."""
    axes = fig.subplots(len(slices), 3, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for row, (generated, training), caption in zip(axes, slices, captions, strict=True):
        brains.show(row[0], generated, mark=row[0] is axes[0, 0])
        brains.show(row[1], training)
        image = row[2].imshow(generated - training, cmap="RdBu_r", vmin=-SPAN, vmax=SPAN, interpolation="bilinear")
        row[2].set_axis_off()
        row[0].text(-0.04, 0.5, caption, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=7)
    for ax, title in zip(axes[0], TITLES, strict=True):
        ax.text(0.5, 1.04, title, transform=ax.transAxes, ha="center", fontsize=8)
    bar = fig.colorbar(image, ax=axes[-1], location="bottom", shrink=0.4, aspect=24, pad=0.02, anchor=(1.0, 0.5))
    bar.set_ticks([-SPAN, 0, SPAN])
    bar.outline.set_linewidth(0.5)
    style.letter(axes[0, 0], "a", left=14)


def _histograms(ax: Axes, distances: pd.DataFrame, column: str, label: str) -> None:
    """Draw densities of one column for test participants and generated volumes, with common bins."""
    bins = np.histogram_bin_edges(distances[column], bins=24).tolist()
    for key, (name, colour) in SETS.items():
        values = distances.loc[distances["set"] == key, column]
        ax.hist(values, bins, density=True, histtype="stepfilled", color=colour, alpha=0.3)
        ax.hist(values, bins, density=True, histtype="step", color=colour, lw=1.2, label=f"{name} ({len(values)})")
    ax.set(xlabel=label, ylabel="density")
    ax.locator_params(axis="y", nbins=4)
