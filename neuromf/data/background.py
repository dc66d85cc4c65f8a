"""Background of a scan: the most frequent value, which need not be the minimum, and defects far below all intensities.

A scan standardised to z-scores has a background of 0 between dark and bright tissue; resampling by splines leaves
values below the background beside it; one voxel of -32768 makes all tissue look equally bright.
"""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BACKGROUND_ABOVE = 1 / 3  # smallest fraction of voxels with one value that is the background
RINGING_BELOW = 0.05  # fraction of the other voxels below the background: 0.01 after spline resampling, 0.4 in z-scores
SAMPLED = 200_000  # voxels that percentiles are estimated from
LOW, HIGH = 0.1, 99.5  # percentiles of the range of intensities


def clean_background(scan: nib.Nifti1Image) -> tuple[nib.Nifti1Image, float]:
    """The scan without defects, with a background of 0 and other intensities above, and the intensity that became 0.

    A scan whose background is 0, and its minimum, is returned as it is; so is one without a background value. What was
    done is noted in image.extra["notes"].
    """
    data, notes = scan.get_fdata(dtype=np.float32), list(scan.extra["notes"])
    if (floor := intensity_floor(data)) is not None:
        notes.append(f"{np.count_nonzero(data < floor)} voxels below {floor:g}, down to {data.min():g}, were raised")
        data = np.maximum(data, np.float32(floor))
    offset = 0.0
    if (background := background_value(data)) is not None:
        data, offset = _subtract_background(data, background)
        if background != offset:
            notes.append(f"background of {background:g} lies between the intensities of tissue")
    return nib.Nifti1Image(data, scan.affine, extra={"notes": notes}), offset


def background_value(array: NDArray) -> float | None:
    """The value that more than a third of the voxels hold; None if there is none."""
    values, counts = np.unique(_sample(array), return_counts=True)
    value = float(values[counts.argmax()])
    return value if np.count_nonzero(array == value) > BACKGROUND_ABOVE * array.size else None


def intensity_floor(array: NDArray) -> float | None:
    """The lowest intensity of air or tissue, if other voxels lie further below it than the whole range; else None.

    Such voxels are defects, or padding below 0. They are less than a third of all: more would be the background.
    """
    sample, lowest = _sample(array), array.min()
    floor, top = np.percentile(sample, (LOW, HIGH))
    if floor == lowest < min(top, 0) and np.mean(sample == lowest) <= BACKGROUND_ABOVE:
        floor = sample[sample > lowest].min()
    bound = floor - (top - floor)
    return float(array[array >= bound].min()) if lowest < bound < floor else None


def _subtract_background(array: NDArray, background: float) -> tuple[NDArray, float]:
    """The array with a background of 0 that is its minimum, and the intensity that became 0.

    A few values below the background are ringing, and are raised to it. If there are many, the background becomes the
    lowest intensity where it is connected to the border.
    """
    offset, lowest = background, float(array.min())
    if background > lowest:
        other = array != background
        if np.count_nonzero(array < background) < RINGING_BELOW * np.count_nonzero(other):
            array = np.maximum(array, np.float32(background))
        else:
            array = np.where(ndimage.binary_fill_holes(other), array, np.float32(lowest))
            offset = lowest
    return (array - np.float32(offset) if offset else array), offset


def _sample(array: NDArray) -> NDArray:
    """About `SAMPLED` voxels at equal distances in memory."""
    return array.ravel(order="K")[:: max(1, array.size // SAMPLED)]
