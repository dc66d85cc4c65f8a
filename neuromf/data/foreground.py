"""Where the head or the brain is in an image, and what can be said of it. Arrays (I, J, K), RAS+, isotropic voxels."""

from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

LOWEST_ABOVE = 1 / 3  # share of voxels at the lowest value without which a scan was not stripped of its background
SPECKS_BELOW = 0.004  # share of the others that lie scattered; 0.0006 to 0.0012 in stripped scans, 0.009 to 0.07 in raw
NECK_BELOW_MM = 180  # from the top of a head: no brain reaches so far down (at most 168 in 136 heads of IXI)
CROWN_MM, BRAIN_BELOW_MM = 120, 82  # the part of a head with a neck that shows where its brain is, and how far down
RIM = 2  # voxels around a head that count as head


def is_stripped(array: np.ndarray) -> bool:
    """Whether a scan was stripped of its background already.

    Then over a third of its voxels hold one and the same lowest value, and the others lie together. A raw scan may
    have as many zeros, but noise and ringing scatter specks among them: voxels with two like neighbours of six or less.
    To be asked of the scan as it came: on a finer grid specks are no specks any more.
    """
    array = array.T if array.flags.f_contiguous else array  # as NIfTI comes; twenty times faster along its lines
    above = array > array.min()
    if np.mean(above) >= 1 - LOWEST_ABOVE:
        return False
    like = np.zeros(array.shape, np.uint8)
    for axis in range(3):
        here, there = ([slice(None)] * 3 for _ in range(2))
        here[axis], there[axis] = slice(1, None), slice(None, -1)
        like[tuple(here)] += above[tuple(there)]
        like[tuple(there)] += above[tuple(here)]
    return bool(np.count_nonzero(above & (like <= 2)) < SPECKS_BELOW * np.count_nonzero(above))


def head(array: np.ndarray, *, stripped: bool | None = None) -> np.ndarray:
    """Where the head is: the largest bright piece (Otsu), what it encloses in any plane, a rim of two voxels.

    Where a scan was stripped already, which `is_stripped` says if nobody else does, it is all above the lowest value.
    """
    if is_stripped(array) if stripped is None else stripped:
        return array > array.min()
    top = np.percentile(array, 99.5)
    array = np.minimum(array, top) if top > array.min() else array
    bright = array > threshold_otsu(array)
    labels, _ = ndimage.label(bright)
    inside = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    for axis in range(3):
        # dark fluid and bone are enclosed by scalp in some plane even where, in 3D, an ear canal leads to them
        in_plane = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
        inside = ndimage.binary_fill_holes(inside, in_plane)
    return ndimage.binary_dilation(inside, iterations=RIM)


def centre(inside: np.ndarray, spacing_mm: float, *, whole_head: bool) -> np.ndarray:
    """The point, in voxels from the corner, that belongs in the middle of the study's grid.

    It is the middle of the foreground's box, except for a whole head with a neck, whose box has its brain far up and
    back: there it is the mean of its upper part across, and a fixed length below its top.
    """
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    middle = np.array([(side.start + side.stop) / 2 for side in box])
    top, bottom = box[2].stop, box[2].start
    if whole_head and (top - bottom) * spacing_mm > NECK_BELOW_MM:
        crown = np.argwhere(inside[:, :, top - round(CROWN_MM / spacing_mm) :])
        middle[:2], middle[2] = crown.mean(axis=0)[:2] + 0.5, top - RIM - BRAIN_BELOW_MM / spacing_mm
    return middle


def measures(volume: np.ndarray, inside: np.ndarray, spacing_mm: float) -> dict[str, Any]:
    """What helps to choose a grid and to find what is odd."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    extent = [round((side.stop - side.start) * spacing_mm) for side in box]
    ml = round(float(inside.sum()) * spacing_mm**3 / 1000, 1)
    return {
        "extent_mm": "x".join(map(str, extent)),
        "foreground_ml": ml,
        "mean": round(float(volume[inside].mean()), 4),
    }
