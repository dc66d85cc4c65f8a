"""Checks of maps and points in caches and batches: shape, type, finite values, range. A violation names the study."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuromf.data.brain_grid import BrainGrid


def check_maps(maps: NDArray, ids: Sequence[str], grid: BrainGrid) -> None:
    """Raise ValueError, with the study, unless maps (n, n_voxels) have this shape and values in [0, 1]."""
    if maps.shape != (len(ids), grid.n_voxels) or not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(f"maps must be floats of shape {(len(ids), grid.n_voxels)}; got {maps.dtype} {maps.shape}")
    low, high = maps.min(1, initial=0), maps.max(1, initial=0)
    if not (valid := (low >= 0) & (high <= 1)).all():  # NaN fails both comparisons
        k = int(np.flatnonzero(~valid)[0])
        raise ValueError(f"the map of study {ids[k]} must be in [0, 1]; got {low[k]:g} to {high[k]:g}")


def check_points(points: NDArray, ids: Sequence[str], grid: BrainGrid, min_in_mask: float = 1.0) -> None:
    """Raise ValueError, with the study, if points (batch, n, 3) in mm are not finite or too few are in the mask."""
    if points.ndim != 3 or points.shape[0] != len(ids) or points.shape[2] != 3:
        raise ValueError(f"points must have shape ({len(ids)}, n, 3); got {points.shape}")
    if not (finite := np.isfinite(points).all((1, 2))).all():
        raise ValueError(f"a point of study {ids[int(np.flatnonzero(~finite)[0])]} is not finite")
    fraction = grid.in_mask(points.reshape(-1, 3)).reshape(points.shape[:2]).mean(1)
    if (low := fraction < min_in_mask).any():
        k = int(np.flatnonzero(low)[0])
        raise ValueError(
            f"{fraction[k]:.0%} of the points of study {ids[k]} are in the mask, {min_in_mask:.0%} must be"
        )
