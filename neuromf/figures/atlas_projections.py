"""Maximum projections of maps on the brain mask as small panels, quick enough for a figure of many maps."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuromf.data.brain_grid import BrainGrid

GAP = 2  # voxels between planes


def planes(grid: BrainGrid, values: NDArray) -> list[tuple[NDArray, NDArray]]:
    """Sagittal, coronal and axial projection of a map (V,), value of largest magnitude, with the projected mask."""
    volume = grid.volume(np.asarray(values, np.float64))
    found = []
    for axis in range(3):
        at = np.abs(volume).argmax(axis)
        plane = np.take_along_axis(volume, np.expand_dims(at, axis), axis).squeeze(axis)
        found.append((plane.T[::-1], np.asarray(grid.mask.any(axis)).T[::-1]))
    return found


def draw(ax: Axes, grid: BrainGrid, values: NDArray, limit: float, *, axes: tuple[int, ...] = (0, 1, 2)) -> None:
    """Draw projections of a map (V,) side by side: white 0, red positive, blue negative, at most `limit`."""
    chosen = [planes(grid, values)[axis] for axis in axes]
    height = max(len(plane) for plane, _ in chosen)
    images, masks = ([_padded(part[k], height) for part in chosen] for k in (0, 1))
    ax.imshow(np.concatenate(images, axis=1), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="bilinear")
    ax.contour(np.concatenate(masks, axis=1), [0.5], colors="0.3", linewidths=0.5)
    ax.set_axis_off()


def _padded(plane: NDArray, height: int) -> NDArray:
    above = (height - len(plane)) // 2
    return np.pad(plane.astype(float), ((above, height - len(plane) - above), (GAP, GAP)))
