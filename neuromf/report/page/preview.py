"""Arrays that the page previews: volumes cropped to the brain in 8 bits, and images of their three planes.

Volumes are arrays (I, J, K) with intensities in [0, 1], RAS+.
"""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neuromf.data.nifti import compress
from neuromf.figures.brains import PLANES, cut

GAP = 2  # pixels between the planes of an image

Crop = tuple[slice, slice, slice]


def as_bytes(volume: NDArray) -> NDArray:
    """Intensities as uint8: [0, 1] becomes 0 to 255, rounded and clipped.

    Raises:
        ValueError: If the volume is not three-dimensional, or contains NaN or infinity.
    """
    if volume.ndim != 3 or not np.isfinite(volume).all():
        finite = "finite" if np.isfinite(volume).all() else "NaN or infinity"
        raise ValueError(f"a preview needs a finite volume of shape (I, J, K), got shape {volume.shape}, {finite}")
    return np.rint(255 * np.clip(volume, 0, 1)).astype(np.uint8)


def nifti(volume: NDArray, crop: Crop, spacing_mm: float) -> bytes:
    """The cropped volume as gzipped uint8 NIfTI. Equal volumes give equal bytes.

    The centre of the crop is the origin of world space, so that volumes of different participants share one crosshair.
    The position in the scanner is dropped.

    Arguments:
        volume: Intensities in [0, 1], or a mask of 0 and 1, shape (I, J, K).
        crop: Part of the volume that is written.
        spacing_mm: Isotropic voxel size in mm.
    """
    centre = [(s.stop - s.start - 1) / 2 for s in crop]
    affine = nib.affines.from_matvec(np.eye(3) * spacing_mm, -spacing_mm * np.array(centre))
    image = nib.Nifti1Image(as_bytes(volume[crop]), affine)
    image.header.set_xyzt_units("mm")
    return compress(image, level=9)


def planes(volume: NDArray, crop: Crop, spacing_mm: float, centre: Sequence[float] | None = None) -> NDArray:
    """Axial, coronal and sagittal slice side by side as one uint8 image, first row at the top.

    Arguments:
        volume: Intensities in [0, 1], shape (I, J, K).
        crop: Part of the volume that is drawn.
        spacing_mm: Isotropic voxel size in mm.
        centre: Intersection of the planes as fractions of the crop; None for its middle, with the sagittal plane beside
            the midline.
    """
    grey = as_bytes(volume)
    if centre is None:
        slices = [cut(grey, plane, crop, spacing_mm) for plane in PLANES]
    else:
        index = [int(fraction * (s.stop - s.start)) for fraction, s in zip(centre, crop, strict=True)]
        slices = [grey[crop].take(index[axis], axis).T[::-1] for axis in (2, 1, 0)]
    height = max(len(image) for image in slices)
    return np.hstack([np.pad(_pad_rows(image, height), ((0, 0), (0, GAP))) for image in slices])[:, :-GAP]


def mask_centre(mask: NDArray, crop: Crop) -> list[float] | None:
    """Centre of mass of a mask as fractions of the crop, None if the mask is empty there."""
    points = np.argwhere(mask[crop] > 0.5)
    if not len(points):
        return None
    sizes = [s.stop - s.start for s in crop]
    return [round(float(fraction), 4) for fraction in (points.mean(axis=0) + 0.5) / sizes]


def montage(tiles: Sequence[NDArray], columns: int) -> NDArray:
    """Tiles of one shape in rows of `columns` tiles; empty places are black."""
    height, width = tiles[0].shape
    canvas = np.zeros((-(-len(tiles) // columns) * height, columns * width), np.uint8)
    for k, tile in enumerate(tiles):
        y, x = k // columns * height, k % columns * width
        canvas[y : y + height, x : x + width] = tile
    return canvas


def _pad_rows(image: NDArray, height: int) -> NDArray:
    spare = height - len(image)
    return np.pad(image, ((spare // 2, spare - spare // 2), (0, 0)))
