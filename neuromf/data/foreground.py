"""Foreground of an image: head or brain mask, centre and size. Arrays (I, J, K), RAS+, isotropic voxels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

LOWEST_ABOVE = 1 / 3  # smallest fraction of voxels at the minimum in a skull-stripped scan
SPECKS_BELOW = 0.004  # fraction of isolated voxels: 0.0006 to 0.0012 in skull-stripped scans, 0.009 to 0.07 in raw ones
MAX_BRAIN_ML = 2600  # not background in a skull-stripped scan: 1100 to 1650 ml measured; heads have 3500 to 6400
NECK_BELOW_MM = 180  # below the top of the head; the brain ends above (at most 168 mm in 136 scans of IXI)
CROWN_MM, BRAIN_BELOW_MM = 120, 82  # upper part of a head with a neck, and depth of the brain's centre
RIM = 2  # voxels that the head mask is dilated by


def is_skull_stripped(array: NDArray, voxel_ml: float = 0.0) -> bool:
    """Whether the background of a scan was removed already.

    In a skull-stripped scan, more than a third of the voxels hold the minimum, and the other voxels are connected and
    no larger than a brain. A raw scan may have as many zeros, but noise and ringing leave isolated voxels among them:
    voxels with at most two of six neighbours above the minimum. Use the scan on its own grid: resampling enlarges
    isolated voxels.

    Arguments:
        array: Intensities, shape (I, J, K).
        voxel_ml: Volume of a voxel in ml; 0 leaves the volume unchecked.
    """
    array = array.T if array.flags.f_contiguous else array  # 20 times faster along the memory order of NIfTI
    above = array > array.min()
    if np.mean(above) >= 1 - LOWEST_ABOVE or np.count_nonzero(above) * voxel_ml > MAX_BRAIN_ML:
        return False
    neighbours = np.zeros(array.shape, np.uint8)
    for axis in range(3):
        lower, upper = ([slice(None)] * 3 for _ in range(2))
        lower[axis], upper[axis] = slice(1, None), slice(None, -1)
        neighbours[tuple(lower)] += above[tuple(upper)]
        neighbours[tuple(upper)] += above[tuple(lower)]
    return bool(np.count_nonzero(above & (neighbours <= 2)) < SPECKS_BELOW * np.count_nonzero(above))


def foreground_mask(array: NDArray, *, stripped: bool | None = None) -> NDArray:
    """Mask of the head: the largest component above Otsu's threshold, holes filled in every plane, dilated by `RIM`.

    In a skull-stripped scan, the mask holds every voxel above the minimum.

    Arguments:
        stripped: Whether the scan is skull-stripped; None calls `is_skull_stripped`.
    """
    if is_skull_stripped(array) if stripped is None else stripped:
        return array > array.min()
    top = np.percentile(array, 99.5)
    array = np.minimum(array, top) if top > array.min() else array
    bright = array > threshold_otsu(array)
    labels, _ = ndimage.label(bright)
    inside = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    for axis in range(3):
        # in 3D the ear canal connects dark fluid and bone to the outside; in some plane the scalp encloses them
        in_plane = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
        inside = ndimage.binary_fill_holes(inside, in_plane)
    return ndimage.binary_dilation(inside, iterations=RIM)


def crop_centre(inside: NDArray, spacing_mm: float, *, whole_head: bool) -> NDArray:
    """Centre of the crop, shape (3,), in voxels from the corner.

    It is the centre of the foreground's bounding box. In a whole head with a neck, the brain lies in the upper back
    of that box: there the centre is the mean of the upper part in the axial plane, at a fixed depth below the top.
    """
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    centre = np.array([(side.start + side.stop) / 2 for side in box])
    top, bottom = box[2].stop, box[2].start
    if whole_head and (top - bottom) * spacing_mm > NECK_BELOW_MM:
        crown = np.argwhere(inside[:, :, top - round(CROWN_MM / spacing_mm) :])
        centre[:2], centre[2] = crown.mean(axis=0)[:2] + 0.5, top - RIM - BRAIN_BELOW_MM / spacing_mm
    return centre


def foreground_measures(volume: NDArray, inside: NDArray, spacing_mm: float) -> dict[str, Any]:
    """Extent in mm, volume in ml and mean intensity of the foreground: they help to choose a grid and find outliers."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    extent = [round((side.stop - side.start) * spacing_mm) for side in box]
    return {
        "extent_mm": "x".join(map(str, extent)),
        "foreground_ml": round(float(inside.sum()) * spacing_mm**3 / 1000, 1),
        "mean": round(float(volume[inside].mean()), 4),
    }
