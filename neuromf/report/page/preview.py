"""Volumes that a page shows: a few, cropped to the brains, in 8 bits, each with a picture of its three planes.

Volumes are arrays (I, J, K) in [0, 1], RAS+.
"""

import gzip
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neuromf.figures.brains import PLANES, cut

LEVELS = 255  # steps of the stored intensities between 0 and 1
GAP = 2  # pixels between the planes of a picture

Crop = tuple[slice, slice, slice]


def as_bytes(volume: NDArray) -> NDArray:
    """Intensities as uint8: 0 to 255 for 0 to 1, rounded; what lies beyond is cut off.

    Raises:
        ValueError: If the volume is not three-dimensional, or holds NaN or infinity.
    """
    if volume.ndim != 3 or not np.isfinite(volume).all():
        finite = "finite" if np.isfinite(volume).all() else "with NaN or infinity in it"
        raise ValueError(f"a volume to look at is (I, J, K) and finite; got shape {volume.shape}, {finite}")
    return np.rint(LEVELS * np.clip(volume, 0, 1)).astype(np.uint8)


def packed(volume: NDArray, crop: Crop, spacing_mm: float) -> bytes:
    """The cropped volume as a compressed NIfTI in uint8, the same bytes for the same volume.

    The middle of the crop is the origin of its world, so that volumes of different people share one crosshair; where
    a person lay in the scanner is not kept.

    Arguments:
        volume: (I, J, K) in [0, 1], or {0, 1} for a mask.
        crop: What is kept.
    """
    half = [(s.stop - s.start - 1) / 2 for s in crop]
    affine = nib.affines.from_matvec(np.eye(3) * spacing_mm, -spacing_mm * np.array(half))
    image = nib.Nifti1Image(as_bytes(volume[crop]), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)


def planes(volume: NDArray, crop: Crop, spacing_mm: float, at: Sequence[float] | None = None) -> NDArray:
    """Axial, coronal and sagittal slice beside each other as one image in uint8, rows from top to bottom.

    Arguments:
        at: Where the planes meet, as shares of the crop; not given, its middle, the sagittal one beside the midline.
    """
    whole = as_bytes(volume)
    if at is None:
        slices = [cut(whole, plane, crop, spacing_mm) for plane in PLANES]
    else:
        inside, point = whole[crop], tuple(int(share * (s.stop - s.start)) for share, s in zip(at, crop, strict=True))
        slices = [inside.take(point[axis], axis).T[::-1] for axis in (2, 1, 0)]
    height = max(len(each) for each in slices)
    return np.hstack([np.pad(_centred(each, height), ((0, 0), (0, GAP))) for each in slices])[:, :-GAP]


def middle(mask: NDArray, crop: Crop) -> list[float] | None:
    """The middle of a mask as shares of the crop; None where it is empty there."""
    points = np.argwhere(mask[crop] > 0.5)
    if not len(points):
        return None
    sizes = [s.stop - s.start for s in crop]
    return [round(float(share), 4) for share in (points.mean(axis=0) + 0.5) / sizes]


def montage(tiles: Sequence[NDArray], columns: int) -> NDArray:
    """Tiles of one shape in rows of so many, black where the last row ends early."""
    height, width = tiles[0].shape
    canvas = np.zeros((-(-len(tiles) // columns) * height, columns * width), np.uint8)
    for k, tile in enumerate(tiles):
        y, x = k // columns * height, k % columns * width
        canvas[y : y + height, x : x + width] = tile
    return canvas


def _centred(image: NDArray, height: int) -> NDArray:
    spare = height - len(image)
    return np.pad(image, ((spare // 2, spare - spare // 2), (0, 0)))
