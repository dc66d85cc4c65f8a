"""Slices of brains the way every figure shows them: RAS+, radiological neighbours named, one window, one crop.

Volumes are arrays (I, J, K) in [0, 1], RAS+. Axial and coronal slices have the left of the person on the left of
the page (marked L), sagittal ones the front on the right.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import style

PLANES = ("axial", "coronal", "sagittal")
GAP = 0.02  # inches between panels
SAGITTAL_OFFSET_MM = 8.0  # beside the midline, where a lateral ventricle is seen


def box(volumes: Sequence[NDArray], margin: int = 2, threshold: float = 0.1) -> tuple[slice, slice, slice]:
    """The smallest box that holds all the brains, with a margin in voxels."""
    inside = np.any([volume > threshold for volume in volumes], axis=0)
    ends = []
    for axis in range(3):
        line = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (line[0], line[-1]) if len(line) else (0, inside.shape[axis] - 1)
        ends.append(slice(max(0, first - margin), min(inside.shape[axis], last + margin + 1)))
    i, j, k = ends
    return i, j, k


def cut(volume: NDArray, plane: str, crop: tuple[slice, slice, slice], spacing_mm: float) -> NDArray:
    """The middle slice of a plane, as an image with rows from top to bottom."""
    i, j, k = ((s.start + s.stop) // 2 for s in crop)
    if plane == "axial":
        image = volume[crop[0], crop[1], k]
    elif plane == "coronal":
        image = volume[crop[0], j, crop[2]]
    else:
        image = volume[i + round(SAGITTAL_OFFSET_MM / spacing_mm), crop[1], crop[2]]
    return image.T[::-1]


def show(ax: Axes, image: NDArray, *, mark: bool = False, window: tuple[float, float] = (0.0, 1.0)) -> None:
    """One slice without axes; `mark` writes L where the left of the person is."""
    ax.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear", aspect="equal")
    ax.set_axis_off()
    if mark:
        ax.text(0.03, 0.04, "L", transform=ax.transAxes, color="white", fontsize=7, family="sans-serif")


# --- panels side by side, of one width and one scale -------------------------------------------------


def panels(
    fig: Figure, top: float, heights: Sequence[float], columns: int, width: float, left: float
) -> list[list[Axes]]:
    """Rows of panels below `top` and from `left` on, panels of a row side by side; all in inches."""
    total, rows = fig.get_figheight(), []
    for high in heights:
        lefts = [left + k * (width + GAP) for k in range(columns)]
        size = (width / style.PAGE, high / total)
        rows.append([fig.add_axes((x / style.PAGE, (top - high) / total, *size)) for x in lefts])
        top -= high + GAP
    return rows


def padded(image: NDArray, wide: int) -> NDArray:
    """A slice with black columns on both sides, so that all panels have one width and one scale."""
    spare = wide - image.shape[1]
    return np.pad(image, ((0, 0), (spare // 2, spare - spare // 2)))


def sides(ax: Axes) -> None:
    """Where the left and right of the person are."""
    for text, x, side in (("L", 0.03, "left"), ("R", 0.97, "right")):
        ax.text(x, 0.03, text, transform=ax.transAxes, ha=side, color="white", fontsize=7, family="sans-serif")


def bar(ax: Axes, length: float, text: str, *, at: float) -> None:
    """A bar of a length, a share of the panel's width, at a height of the panel, and what it is above or below."""
    ax.plot([0.04, 0.04 + length], [at, at], transform=ax.transAxes, color="white", lw=1.2)
    above = at < 0.5
    place: dict[str, Any] = {"y": at + 0.03, "va": "baseline"} if above else {"y": at - 0.02, "va": "top"}
    ax.text(0.04, s=text, transform=ax.transAxes, color="white", fontsize=6, family="sans-serif", **place)
