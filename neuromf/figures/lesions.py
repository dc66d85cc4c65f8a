"""Figure 7: FLAIR with lesion masks, real and from one evaluation, one by one and what all of them show together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import brains, style

WINDOW = (0.0, 1.0)  # intensities shown from black to white, in every panel
LEFT, BETWEEN, CAPTION = 0.42, 0.09, 0.15  # inches: of names, between sets, of captions
CURVES, ROOM = 1.5, 0.5  # inches: height of the panels below, and what their labels take above and below them
ROWS = (("axial", False), ("axial", True), ("coronal", True), ("sagittal", True))  # planes, and whether with contour
BAR_MM = 50
FEWEST = 5  # columns that there is room for: fewer pairs are not drawn larger

Pair = tuple[NDArray, NDArray]  # image (I, J, K) in [0, 1] and mask of 0 and 1, RAS+


class Together(NamedTuple):
    """All lesions of a set: excess by distance from the border (columns mm, value, low, high), and thickening in mm."""

    profile: pd.DataFrame
    thickening: NDArray


def fig_7(
    sets: Mapping[str, Sequence[Pair]],
    spacing_mm: float,
    columns: int = 6,
    captions: Mapping[str, Sequence[str]] | None = None,
    together: Mapping[str, Together] | None = None,
) -> Figure:
    """One block per set, a pair per column: the axial slice as it is and with the mask's contour, then other planes.

    Slices go through the middle of the largest slice of the lesion, or of the head where there is none. One window,
    scale and crop for all; first panels say where left and right are, and have a bar of 5 cm.

    Arguments:
        sets: Pairs by what stands beside them; fewer than `columns` leave places empty.
        spacing_mm: Voxel size.
        captions: What stands under the columns of a set.
        together: What all lesions of a set show, in two panels below; none where it is not given.
    """
    shown, captions = {name: list(pairs[:columns]) for name, pairs in sets.items()}, captions or {}
    crop = brains.box([image for pairs in shown.values() for image, _ in pairs])
    across, along, up = (s.stop - s.start for s in crop)
    wide, high = max(across, along), {"axial": along, "coronal": up, "sagittal": up}
    inch = ((style.PAGE - LEFT) / max(columns, FEWEST) - brains.GAP) / wide
    heights = [inch * high[plane] for plane, _ in ROWS]
    block = sum(heights) + brains.GAP * len(ROWS) + BETWEEN
    total = len(shown) * block - BETWEEN + CAPTION * len(captions.keys() & shown.keys())
    total += (CURVES + 2 * ROOM) * bool(together)
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
    if together:
        _curves(fig, together, (ROOM / total, CURVES / total))
    return fig


def _curves(fig: Figure, together: Mapping[str, Together], place: tuple[float, float]) -> None:
    """Excess by distance from the border, and thickening lesion by lesion; place: their bottom and height."""
    bottom, high = place
    profile, thicker = (fig.add_axes((left, bottom, wide, high)) for left, wide in ((0.1, 0.42), (0.64, 0.34)))
    colours = dict(zip(together, (style.REAL, style.PALETTE[0]), strict=False))
    for k, (name, found) in enumerate(together.items()):
        table, mm = found.profile, found.thickening
        profile.plot(table["mm"], table["value"], color=colours[name], marker="so"[k], ms=3, label=name)
        profile.fill_between(table["mm"], table["low"], table["high"], color=colours[name], alpha=0.3, lw=0)
        thicker.plot(mm, k + np.linspace(-0.25, 0.25, len(mm)), "so"[k], ms=3, color=colours[name], alpha=0.7)
        if len(mm):
            thicker.plot([mm.mean()] * 2, [k - 0.4, k + 0.4], color="black")
    profile.axhline(0, color=style.LIMIT, lw=0.7, ls=":")
    profile.axvline(0, color=style.LIMIT, lw=0.7, ls=":")
    profile.set(xlabel="distance from the border (mm; inside < 0)", ylabel="excess")
    profile.legend(loc="upper right")
    thicker.axvline(0, color=style.LIMIT, lw=0.7, ls=":")
    thicker.set(xlabel="ribbon thicker by (mm)", ylim=(len(together) - 0.5, -0.5))
    thicker.set_yticks(range(len(together)), [name.split(",")[0] for name in together])
    for ax, text in ((profile, "a"), (thicker, "b")):
        style.letter(ax, text)


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
