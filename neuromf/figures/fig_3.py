"""Figure 3: real and generated brains in three planes, and the training heads nearest to the generated ones."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, style

WINDOW = (0.0, 1.0)  # intensities shown from black to white, in every panel
LEFT, GAP, BETWEEN, CAPTION = 0.26, 0.02, 0.09, 0.15  # inches: of the names, between panels, between sets, of a caption
BAR_MM = 50


def fig_3(
    sets: Mapping[str, Sequence[NDArray]],
    spacing_mm: float,
    columns: int = 8,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """One block of three rows (axial, coronal, sagittal) per set, one brain per column, one window and scale for all.

    The first panels of a block say where left and right are, and have a bar of 5 cm.

    Arguments:
        sets: Volumes (I, J, K) in [0, 1], RAS+, by what stands beside them; at least `columns` each.
        spacing_mm: Voxel size.
        captions: What stands under the columns of a set, for those that have it.
    """
    shown, captions = {name: list(volumes[:columns]) for name, volumes in sets.items()}, captions or {}
    crop = brains.box([volume for volumes in shown.values() for volume in volumes])
    across, along, up = (s.stop - s.start for s in crop)
    wide = max(across, along)  # voxels of a panel: axial and coronal slices are padded to the width of sagittal ones
    inch = ((style.PAGE - LEFT) / columns - GAP) / wide
    rows = [(plane, inch * high) for plane, high in zip(brains.PLANES, (along, up, up), strict=True)]
    block = sum(high + GAP for _, high in rows) + BETWEEN
    height = len(shown) * block - BETWEEN + CAPTION * len(captions.keys() & shown.keys())
    fig = style.new(style.PAGE, height)
    fig.set_layout_engine("none")
    top = height
    for name, volumes in shown.items():
        axes = _axes(fig, top, [high for _, high in rows], columns, inch * wide)
        for (plane, _), line in zip(rows, axes, strict=True):
            for ax, volume in zip(line, volumes, strict=True):
                brains.show(ax, _padded(brains.cut(volume, plane, crop, spacing_mm), wide), window=WINDOW)
            if plane != "sagittal":
                _sides(line[0])
        _bar(axes[2][0], BAR_MM / spacing_mm / wide, f"{BAR_MM / 10:g} cm" if top == height else "")
        fig.text(0.06 / style.PAGE, (top - (block - BETWEEN) / 2) / height, name, rotation=90, va="center", fontsize=9)
        for ax, text in zip(axes[2], captions.get(name, ()), strict=False):
            ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=6)
        top -= block + CAPTION * (name in captions)
    return fig


def _axes(fig: Figure, top: float, heights: Sequence[float], columns: int, width: float) -> list[list[Axes]]:
    """Rows of panels below `top`, in inches, panels of a row side by side."""
    total, rows = fig.get_figheight(), []
    for high in heights:
        lefts = [LEFT + k * (width + GAP) for k in range(columns)]
        size = (width / style.PAGE, high / total)
        rows.append([fig.add_axes((left / style.PAGE, (top - high) / total, *size)) for left in lefts])
        top -= high + GAP
    return rows


def _padded(image: NDArray, wide: int) -> NDArray:
    """A slice with black columns on both sides, so that all panels have one width and one scale."""
    spare = wide - image.shape[1]
    return np.pad(image, ((0, 0), (spare // 2, spare - spare // 2)), constant_values=WINDOW[0])


def _sides(ax: Axes) -> None:
    """Where the left and right of the person are."""
    for text, x, side in (("L", 0.03, "left"), ("R", 0.97, "right")):
        ax.text(x, 0.03, text, transform=ax.transAxes, ha=side, color="white", fontsize=7, family="sans-serif")


def _bar(ax: Axes, length: float, text: str) -> None:
    ax.plot([0.04, 0.04 + length], [0.05, 0.05], transform=ax.transAxes, color="white", lw=1.2)
    ax.text(0.04, 0.08, text, transform=ax.transAxes, color="white", fontsize=6, family="sans-serif")
