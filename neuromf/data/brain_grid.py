"""Brain grids in MNI152 space: the 2 mm grid of the standard template, and a 6 mm grid whose axes are divisible by 8.

The 2 mm mask is the MNI152 brain mask inside NiMARE's wheel, the mask that coordinate-based meta-analyses use. The 6 mm
mask holds every voxel that touches it, and the face neighbours of voxels whose centre is inside: a kernel around a
focus at the border is not cut.
"""

import functools
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

MASK_FILE = "nimare/resources/templates/MNI152_2x2x2_brainmask.nii.gz"
SHAPE_6MM, SPACING_6MM, ORIGIN_6MM = (32, 40, 32), 6.0, (-96.0, -132.0, -78.0)


@dataclass(frozen=True, eq=False)
class BrainGrid:
    """A grid in MNI152 space with its brain mask."""

    name: str
    shape: tuple[int, int, int]
    affine: NDArray  # (4, 4), voxel indices to mm
    mask: NDArray[np.bool_]  # of `shape`

    @functools.cached_property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return int(self.mask.sum())

    @functools.cached_property
    def spacing_mm(self) -> NDArray:
        """Voxel size along each axis in mm, shape (3,)."""
        return np.abs(np.diag(self.affine)[:3])

    @functools.cached_property
    def lookup(self) -> NDArray[np.int64]:
        """Position of each voxel in vectors of the mask (C order), -1 outside; of `shape`."""
        found = np.full(self.shape, -1, np.int64)
        found[self.mask] = np.arange(self.n_voxels)
        return found

    @functools.cached_property
    def centres_mm(self) -> NDArray:
        """Centres of the voxels in the mask in mm, shape (n_voxels, 3)."""
        return nib.affines.apply_affine(self.affine, np.argwhere(self.mask))

    def indices(self, points_mm: ArrayLike) -> NDArray[np.int64]:
        """Nearest voxel of points (n, 3) in mm; it may lie outside the grid."""
        inside = nib.affines.apply_affine(np.linalg.inv(self.affine), np.asarray(points_mm, float).reshape(-1, 3))
        return np.rint(inside).astype(np.int64)

    def mask_index(self, points_mm: ArrayLike) -> NDArray[np.int64]:
        """Position of points (n, 3) in vectors of the mask; -1 outside the mask."""
        voxels = self.indices(points_mm)
        valid = ((voxels >= 0) & (voxels < self.shape)).all(1)
        found = np.full(len(voxels), -1, np.int64)
        found[valid] = self.lookup[tuple(voxels[valid].T)]
        return found

    def in_mask(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Whether points (n, 3) in mm are in the mask."""
        return self.mask_index(points_mm) >= 0

    def volume(self, values: NDArray, fill: float = 0.0) -> NDArray:
        """Volumes (..., *shape) of vectors (..., n_voxels), `fill` outside the mask."""
        out = np.full((*values.shape[:-1], *self.shape), fill, values.dtype)
        out[..., self.mask] = values
        return out

    def vector(self, volume: NDArray) -> NDArray:
        """Values in the mask, shape (..., n_voxels), of volumes (..., *shape)."""
        return volume[..., self.mask]


@functools.cache
def brain_grid(name: str) -> BrainGrid:
    """The grid "2mm" or "6mm"; read once per process.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If NiMARE, whose wheel holds the mask, is not installed.
    """
    if name not in ("2mm", "6mm"):
        raise ValueError(f"grid must be 2mm or 6mm; got {name!r}")
    image = nib.Nifti1Image.from_filename(_mask_path())
    i, j, k = image.shape
    fine = BrainGrid("2mm", (i, j, k), image.affine, np.asarray(image.dataobj) > 0)
    return fine if name == "2mm" else _coarse_grid(fine)


def _coarse_grid(fine: BrainGrid) -> BrainGrid:
    """The 6 mm grid, with the mask described above."""
    affine = nib.affines.from_matvec(np.diag([SPACING_6MM] * 3), ORIGIN_6MM)
    empty = BrainGrid("6mm", SHAPE_6MM, affine, np.zeros(SHAPE_6MM, bool))
    touched = empty.mask.copy()
    touched[tuple(empty.indices(fine.centres_mm).T)] = True
    centres = nib.affines.apply_affine(affine, np.argwhere(~empty.mask))
    central = fine.in_mask(centres).reshape(SHAPE_6MM)
    return BrainGrid("6mm", SHAPE_6MM, affine, touched | ndimage.binary_dilation(central))


def _mask_path() -> Path:
    try:
        return Path(str(packages.distribution("nimare").locate_file(MASK_FILE)))
    except packages.PackageNotFoundError:
        raise ImportError(
            "the brain mask is inside NiMARE, which is not installed: pip install 'neuromf[atlas]'"
        ) from None
