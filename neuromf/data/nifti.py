"""NIfTI in and out: volumes in [0, 1] as scaled int16, masks as uint8; every file is written whole or not at all."""

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from neuromf.core.files import atomic_write

LEVELS = 32767  # steps of int16 between 0 and 1


def write_volume(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume in [0, 1] as int16 NIfTI (error below 2e-5), whole or not at all.

    The same volume gives the same bytes, on any day and under any name.

    Raises:
        ValueError: If the array is not 3D, or reaches outside [0, 1], or the name does not end in .nii.gz.
    """
    path, array = Path(path), np.asarray(array)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"the name of a volume must end in .nii.gz; got {path.name}")
    if array.ndim != 3 or not ((array >= 0) & (array <= 1)).all():
        span = f"{array.min():g}..{array.max():g}" if array.size else "nothing"
        raise ValueError(
            f"a volume must be 3D within 0..1; got shape {array.shape} within {span}; clip or select first"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        part.write_bytes(gzip.compress(_nifti(array, affine).to_bytes(), compresslevel=3, mtime=0))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.rint(array * float(LEVELS)).astype(np.int16), affine)
    image.header.set_slope_inter(1 / LEVELS, 0)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image


def read_volume(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A volume as written by write_volume: float32 array and affine."""
    image: Any = nib.load(path)
    return image.get_fdata(dtype=np.float32), image.affine


def read_volumes(paths: Sequence[str | Path]) -> torch.Tensor:
    """Volumes of one study as a float16 tensor (N, 1, I, J, K): its rounding is below that of 8-bit intensities."""
    return torch.stack([torch.from_numpy(read_volume(path)[0]).half()[None] for path in paths])


def write_mask(path: str | Path, mask: NDArray, affine: NDArray) -> None:
    """Write a mask of 0 and 1 as NIfTI of bytes, whole or not at all; equal masks give equal bytes.

    Raises:
        ValueError: If it is not 3D, or holds anything else.
    """
    path, mask = Path(path), np.asarray(mask)
    if mask.ndim != 3 or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"a mask must be 3D and of 0 and 1; got shape {mask.shape}, values {np.unique(mask)[:5].tolist()}"
        )
    image = nib.Nifti1Image(mask.astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(gzip.compress(image.to_bytes(), compresslevel=3, mtime=0))
