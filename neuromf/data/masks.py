"""Brain masks as users have them: label maps, probabilities, masks resampled by splines."""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neuromf.data.scans import BadScan

ROUNDING = 1e-3  # largest distance to a whole number that is due to scaling, or dust


def brain_mask_of(mask: nib.Nifti1Image, name: str) -> NDArray:
    """Voxels of the brain, booleans (I, J, K), on the grid of the mask.

    In a label map, of whole numbers, they are those above 0. Otherwise values are probabilities, or a mask that was
    resampled, and are cut at half of their maximum.

    Arguments:
        mask: Image of the mask.
        name: Name of its file, for messages.

    Raises:
        BadScan: If all corners of the image belong to the brain, but not all voxels.
    """
    values = mask.get_fdata(dtype=np.float32)
    labels = np.rint(values)
    inside = labels > 0 if np.abs(values - labels).max() <= ROUNDING else values > values.max() / 2
    if marks_outside(inside):
        raise BadScan(f"inverted mask: all corners of {name} are marked as brain; exchange 0 and 1")
    return inside


def marks_outside(inside: NDArray) -> bool:
    """Whether a mask marks all corners of its image, but not all voxels: an inverted mask does."""
    corners = inside[tuple(slice(None, None, n - 1) for n in inside.shape)]
    return bool(corners.all() and not inside.all())
