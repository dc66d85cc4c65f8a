"""Privacy: the generated heads most like a training head, and how near generated and unseen heads come to training."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, style

COLOURS = {"generated": style.PALETTE[0], "held out": style.REAL}
HEADS = ("generated", "nearest", "difference")
WIDTH = 0.98  # of a brain, in inches
SPAN = 0.5  # of the difference's colours, either way


def privacy(
    pairs: Sequence[tuple[NDArray, NDArray]],
    captions: Sequence[str],
    distances: pd.DataFrame,
    audit: Mapping[str, float],
    spacing_mm: float,
) -> Figure:
    """Closest pairs in axial slices, one per row, and the distances to the nearest training head.

    Arguments:
        pairs: Generated and training volume (I, J, K) in [0, 1], RAS+, the training one mirrored where its mirror
            image is the nearer.
        captions: What stands under each pair.
        distances: One row per head, with columns set ("generated" or "held out") and distance (to the nearest
            training head, in the unit of the features), and relative (over that to the second nearest).
        audit: With auc, auc_low and auc_high.
        spacing_mm: Voxel size.
    """
    crop = brains.box([volume for pair in pairs for volume in pair])
    tall = (crop[1].stop - crop[1].start) / (crop[0].stop - crop[0].start)  # of an axial slice
    fig = style.new(style.PAGE, max(WIDTH * tall * len(pairs) + 0.6, 2.8))
    widths = (3 * WIDTH + 0.35, style.PAGE - 3 * WIDTH - 0.35)
    left, right = fig.subfigures(1, 2, width_ratios=widths)  # type: ignore[misc]  # two are asked for
    show_pairs(left, pairs, captions, crop, spacing_mm)
    top, bottom = right.subplots(2, 1)
    distributions(top, distances, "distance", "distance to nearest training head")
    distributions(bottom, distances, "relative", "nearest over second nearest")
    words = "membership AUC {auc:.2f}\n[{auc_low:.2f}, {auc_high:.2f}]".format(**audit)
    top.text(0.98, 0.97, words, transform=top.transAxes, ha="right", va="top", fontsize=8)
    bottom.legend(loc="upper left", borderaxespad=0.2)
    style.letter(top, "b")
    style.letter(bottom, "c")
    return fig


def show_pairs(
    fig: Figure,
    pairs: Sequence[tuple[NDArray, NDArray]],
    captions: Sequence[str],
    crop: tuple[slice, slice, slice],
    spacing_mm: float,
) -> None:
    """Rows of generated head, training head, and their difference, in one window and one crop."""
    axes = fig.subplots(len(pairs), 3, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for row, (generated, training), caption in zip(axes, pairs, captions, strict=True):
        images = [brains.cut(volume, "axial", crop, spacing_mm) for volume in (generated, training)]
        for ax, image in zip(row, images, strict=False):
            brains.show(ax, image, mark=ax is axes[0, 0])
        drawn = row[2].imshow(images[0] - images[1], cmap="RdBu_r", vmin=-SPAN, vmax=SPAN, interpolation="bilinear")
        row[2].set_axis_off()
        row[0].text(-0.04, 0.5, caption, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=7)
    for ax, head in zip(axes[0], HEADS, strict=True):
        ax.text(0.5, 1.04, head, transform=ax.transAxes, ha="center", fontsize=8)
    bar = fig.colorbar(drawn, ax=axes[-1], location="bottom", shrink=0.4, aspect=24, pad=0.02, anchor=(1.0, 0.5))
    bar.set_ticks([-SPAN, 0, SPAN])
    bar.outline.set_linewidth(0.5)
    style.letter(axes[0, 0], "a", left=14)


def distributions(ax: Axes, distances: pd.DataFrame, column: str, name: str) -> None:
    """Histograms of one column, on common bins, as densities: generated heads over held-out ones."""
    bins = np.histogram_bin_edges(distances[column], bins=24).tolist()
    for which in ("held out", "generated"):
        values, colour = distances.loc[distances["set"] == which, column], COLOURS[which]
        ax.hist(values, bins, density=True, histtype="stepfilled", color=colour, alpha=0.3)
        ax.hist(values, bins, density=True, histtype="step", color=colour, lw=1.2, label=f"{which} ({len(values)})")
    ax.set(xlabel=name, ylabel="density")
    ax.locator_params(axis="y", nbins=4)
