"""NIfTI files of this project: volumes in [0, 1] as scaled int16, masks as uint8. Arrays (I, J, K), RAS+."""

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from neuromf.core.files import atomic_write

LEVELS = 32767  # int16 steps between 0 and 1


def write_volume(path: str | Path, array: NDArray, affine: NDArray) -> None:
    """Write a volume in [0, 1] as int16 NIfTI (rounding error below 2e-5), atomically.

    Equal volumes give equal bytes, whatever the date or the file name.

    Raises:
        ValueError: If the array is not 3D or leaves [0, 1], or the name does not end in .nii.gz.
    """
    path, array = Path(path), np.asarray(array)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"the name of a volume must end in .nii.gz; got {path.name}")
    if array.ndim != 3 or not ((array >= 0) & (array <= 1)).all():
        span = f"{array.min():g}..{array.max():g}" if array.size else "nothing"
        raise ValueError(
            f"a volume must be 3D within 0..1; got shape {array.shape} within {span}; clip or select first"
        )
    _write(path, np.rint(array * float(LEVELS)), affine, np.int16, slope=1 / LEVELS)


def volume_digest(array: NDArray) -> str:
    """Digest of the shape and voxels of a volume in [0, 1], as `write_volume` stores them."""
    stored = np.ascontiguousarray(np.rint(array * float(LEVELS)).astype("<i2"))
    return hashlib.blake2b(str(array.shape).encode() + stored.tobytes(), digest_size=16).hexdigest()


def write_mask(path: str | Path, mask: NDArray, affine: NDArray) -> None:
    """Write a mask of 0 and 1 as uint8 NIfTI, atomically; equal masks give equal bytes.

    Raises:
        ValueError: If the mask is not 3D or holds other values.
    """
    mask = np.asarray(mask)
    if mask.ndim != 3 or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"a mask must be 3D and of 0 and 1; got shape {mask.shape}, values {np.unique(mask)[:5].tolist()}"
        )
    _write(Path(path), mask, affine, np.uint8)


def write_labels(path: str | Path, labels: NDArray, affine: NDArray) -> None:
    """Write a label map of integers from 0 to 255 as uint8 NIfTI, atomically; equal maps give equal bytes.

    Raises:
        ValueError: If the map is not 3D or holds other values.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3 or not ((labels >= 0) & (labels <= 255) & (labels == np.rint(labels))).all():
        raise ValueError(f"a label map must be 3D and of integers from 0 to 255; got shape {labels.shape}")
    _write(Path(path), labels, affine, np.uint8)


def compress(image: nib.Nifti1Image, level: int = 3) -> bytes:
    """The bytes of an image as a .nii.gz file, without a date: equal images give equal bytes."""
    return gzip.compress(image.to_bytes(), compresslevel=level, mtime=0)


def _write(path: Path, array: NDArray, affine: NDArray, dtype: DTypeLike, slope: float | None = None) -> None:
    """Write values of `dtype`, which readers multiply by `slope`, atomically."""
    image = nib.Nifti1Image(array.astype(dtype), affine)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(compress(image))


def read_volume(path: str | Path) -> tuple[NDArray, NDArray]:
    """A volume (I, J, K), float32, and its affine."""
    image: Any = nib.load(path)
    return image.get_fdata(dtype=np.float32), image.affine


def read_volumes(paths: Sequence[str | Path]) -> torch.Tensor:
    """Volumes of one grid, shape (N, 1, I, J, K), float16: the rounding is below that of 8-bit intensities."""
    return torch.stack([torch.from_numpy(read_volume(path)[0]).half()[None] for path in paths])
