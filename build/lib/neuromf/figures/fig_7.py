"""Figure 7: FLAIR with lesion masks, real and from one evaluation, in three planes through the lesion."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, style

WINDOW = (0.0, 1.0)  # intensities shown from black to white, in every panel
LEFT, BETWEEN, CAPTION = 0.42, 0.09, 0.15  # inches: of names, between sets, of captions
ROWS = (("axial", False), ("axial", True), ("coronal", True), ("sagittal", True))  # planes, and whether with contour
BAR_MM = 50
FEWEST = 5  # columns that there is room for: fewer pairs are not drawn larger

Pair = tuple[NDArray, NDArray]  # image (I, J, K) in [0, 1] and mask of 0 and 1, RAS+


def fig_7(
    sets: Mapping[str, Sequence[Pair]],
    spacing_mm: float,
    columns: int = 6,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """One block per set, a pair per column: the axial slice as it is and with the mask's contour, then other planes.

    Slices go through the middle of the largest slice of the lesion, or of the head where there is none. One window,
    scale and crop for all; first panels say where left and right are, and have a bar of 5 cm.

    Arguments:
        sets: Pairs by what stands beside them; fewer than `columns` leave places empty.
        spacing_mm: Voxel size.
        captions: What stands under the columns of a set.
    """
    shown, captions = {name: list(pairs[:columns]) for name, pairs in sets.items()}, captions or {}
    crop = brains.box([image for pairs in shown.values() for image, _ in pairs])
    across, along, up = (s.stop - s.start for s in crop)
    wide, high = max(across, along), {"axial": along, "coronal": up, "sagittal": up}
    inch = ((style.PAGE - LEFT) / max(columns, FEWEST) - brains.GAP) / wide
    heights = [inch * high[plane] for plane, _ in ROWS]
    block = sum(heights) + brains.GAP * len(ROWS) + BETWEEN
    total = len(shown) * block - BETWEEN + CAPTION * len(captions.keys() & shown.keys())
    fig = style.new(style.PAGE, total)
    fig.set_layout_engine("none")
    top = total
    for name, pairs in shown.items():
        axes = brains.panels(fig, top, heights, columns, inch * wide, LEFT)
        for line, (plane, contour) in zip(axes, ROWS, strict=True):
            for ax, pair in zip(line, pairs, strict=False):
                _panel(ax, pair, plane, crop, wide, contour=contour)
            for ax in line[len(pairs) :]:
                ax.set_axis_off()
            if plane != "sagittal":
                brains.sides(line[0])
        brains.bar(axes[0][0], BAR_MM / spacing_mm / wide, f"{BAR_MM / 10:g} cm", at=0.94)
        fig.text(0.1 / style.PAGE, (top - (block - BETWEEN) / 2) / total, name, rotation=90, va="center", fontsize=9)
        for ax, text in zip(axes[-1], captions.get(name, ()), strict=False):
            ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=6)
        top -= block + CAPTION * (name in captions)
    return fig


def middle(mask: NDArray, crop: tuple[slice, slice, slice]) -> tuple[int, int, int]:
    """The voxel that slices go through: where the lesion is widest along each axis; of none, the middle of the crop."""
    if not mask.any():
        i, j, k = ((s.start + s.stop) // 2 for s in crop)
    else:
        i, j, k = (int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    return i, j, k


def cut(volume: NDArray, plane: str, crop: tuple[slice, slice, slice], at: tuple[int, int, int]) -> NDArray:
    """The slice of a plane through a voxel, as an image with rows from top to bottom."""
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    where = tuple(at[a] if a == axis else crop[a] for a in range(3))
    return volume[where].T[::-1]


def _panel(ax: Axes, pair: Pair, plane: str, crop: tuple[slice, slice, slice], wide: int, *, contour: bool) -> None:
    """One slice, padded to one width, and over it the border of the mask where it is asked for and cut."""
    image, mask = pair
    picture, inside = (
        brains.padded(cut(a, plane, crop, middle(mask, crop)), wide) for a in (image, np.asarray(mask, float))
    )
    brains.show(ax, picture, window=WINDOW)
    if contour and inside.any():
        ax.contour(inside, levels=[0.5], colors=[style.PALETTE[1]], linewidths=0.7)
