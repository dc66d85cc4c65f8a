"""Slices of brains, with one intensity window, one crop and one scale in all figures.

Volumes are arrays of shape (I, J, K) in [0, 1], RAS+. The left of a participant is on the left of axial and coronal
slices (marked L); the front is on the right of sagittal slices.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.figures import style

PLANES = ("axial", "coronal", "sagittal")
WINDOW = (0.0, 1.0)  # intensities drawn black and white
GAP, BETWEEN, CAPTION = 0.02, 0.09, 0.15  # inches between panels, between blocks, and for a line of captions
SAGITTAL_OFFSET_MM = 8.0  # from the midline, where a lateral ventricle is visible
BAR_MM = 50

Crop = tuple[slice, slice, slice]
Voxel = tuple[int, int, int]


def read(files: Iterable[str]) -> list[NDArray]:
    """Volumes of NIfTI files."""
    from neuromf.data.nifti import read_volume  # imports torch, which drawing does not need

    return [read_volume(file)[0] for file in files]


def box(volumes: Sequence[NDArray], margin: int = 2, threshold: float = 0.1) -> Crop:
    """Smallest box around all brains (intensities above `threshold`), with a margin in voxels."""
    inside = np.any([volume > threshold for volume in volumes], axis=0)
    ends = []
    for axis in range(3):
        line = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (line[0], line[-1]) if len(line) else (0, inside.shape[axis] - 1)
        ends.append(slice(max(0, first - margin), min(inside.shape[axis], last + margin + 1)))
    i, j, k = ends
    return i, j, k


def centre(crop: Crop) -> Voxel:
    """Voxel in the middle of a crop."""
    i, j, k = ((s.start + s.stop) // 2 for s in crop)
    return i, j, k


def cut(volume: NDArray, plane: str, crop: Crop, spacing_mm: float) -> NDArray:
    """Middle slice of a plane, as an image with rows from top to bottom; sagittal slices lie beside the midline."""
    i, j, k = centre(crop)
    return cut_at(volume, plane, crop, (i + round(SAGITTAL_OFFSET_MM / spacing_mm), j, k))


def cut_at(volume: NDArray, plane: str, crop: Crop, voxel: Voxel) -> NDArray:
    """Slice of a plane through a voxel, as an image with rows from top to bottom."""
    axis = 2 - PLANES.index(plane)
    index = tuple(voxel[a] if a == axis else crop[a] for a in range(3))
    return volume[index].T[::-1]


def show(ax: Axes, image: NDArray, *, mark: bool = False) -> None:
    """Draw one slice without axes; `mark` writes L at the left of the participant."""
    ax.imshow(image, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], interpolation="bilinear", aspect="equal")
    ax.set_axis_off()
    if mark:
        _write(ax, 0.03, 0.04, "L", fontsize=7)


def blocks(
    names: Sequence[str],
    heights: Sequence[float],
    columns: int,
    width: float,
    *,
    name_x: float,
    left: float,
    captions: Mapping[str, Sequence[str]],
    below: float = 0.0,
) -> tuple[Figure, dict[str, list[list[Axes]]]]:
    """A page with one block of panel rows per set of volumes, the name of the set beside it.

    Arguments:
        names: Names of the sets, from top to bottom.
        heights: Height of each row of a block in inches.
        columns, width: Panels of a row, and width of a panel in inches.
        name_x, left: Distance of names and of the first panels from the left of the page in inches.
        captions: Texts under the columns of a set.
        below: Empty space under the blocks in inches.

    Returns:
        The figure, and the axes of each set by row and column.
    """
    block = sum(heights) + GAP * len(heights) + BETWEEN
    height = len(names) * block - BETWEEN + CAPTION * len(captions.keys() & set(names)) + below
    fig, top, axes = style.new(style.PAGE, height), height, {}
    fig.set_layout_engine("none")
    for name in names:
        axes[name] = _panels(fig, top, heights, columns, width, left)
        middle = (top - (block - BETWEEN) / 2) / height
        fig.text(name_x / style.PAGE, middle, name, rotation=90, va="center", fontsize=9)
        for ax, text in zip(axes[name][-1], captions.get(name, ()), strict=False):
            ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=6)
        top -= block + CAPTION * (name in captions)
    return fig, axes


def _panels(
    fig: Figure, top: float, heights: Sequence[float], columns: int, width: float, left: float
) -> list[list[Axes]]:
    """Rows of panels below `top` and from `left` on, in inches."""
    total, rows = fig.get_figheight(), []
    for high in heights:
        lefts = [left + k * (width + GAP) for k in range(columns)]
        size = (width / style.PAGE, high / total)
        rows.append([fig.add_axes((x / style.PAGE, (top - high) / total, *size)) for x in lefts])
        top -= high + GAP
    return rows


def pad(image: NDArray, width: int) -> NDArray:
    """A slice with black columns on both sides, `width` voxels wide."""
    spare = width - image.shape[1]
    return np.pad(image, ((0, 0), (spare // 2, spare - spare // 2)))


def sides(ax: Axes) -> None:
    """Write L and R at the left and right of the participant."""
    for text, x, side in (("L", 0.03, "left"), ("R", 0.97, "right")):
        _write(ax, x, 0.03, text, fontsize=7, ha=side)


def scale_bar(ax: Axes, width_mm: float, *, top: bool = False, label: bool = True) -> None:
    """Draw a bar of 5 cm at the bottom or top of a panel that is `width_mm` wide."""
    y = 0.94 if top else 0.05
    ax.plot([0.04, 0.04 + BAR_MM / width_mm], [y, y], transform=ax.transAxes, color="white", lw=1.2)
    if label:
        place: dict[str, Any] = {"y": y - 0.02, "va": "top"} if top else {"y": y + 0.03, "va": "baseline"}
        _write(ax, 0.04, text=f"{BAR_MM / 10:g} cm", fontsize=6, **place)


def _write(ax: Axes, x: float, y: float, text: str, **font: Any) -> None:
    ax.text(x, y, text, transform=ax.transAxes, color="white", family="sans-serif", **font)
