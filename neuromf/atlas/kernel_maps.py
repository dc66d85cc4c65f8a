"""Activation maps of studies: a Gaussian kernel around each focus, combined within the study.

k(x) = exp(-|x - f|^2 / (2 s^2)), s = FWHM / 2.3548, so the peak is 1. The modelled activation of ALE combines kernels
by noisy-OR, 1 - prod(1 - k).

References:
    Coordinate-based ALE meta-analysis of neuroimaging data (Eickhoff et al., 2009), Human Brain Mapping
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from neuromf.atlas.studies import Studies
from neuromf.data.brain_grid import BrainGrid

Combine = Literal["noisy_or", "sum", "max"]

FWHM_OVER_SIGMA = float(np.sqrt(8 * np.log(2)))
NEGLIGIBLE = 1e-3  # kernels are cut where they fall below
SCALING = (0.8, 1.2)  # of the standard deviation along each axis of a rotated frame, in augmentation
FOCI_PER_CHUNK = 2**22  # times the voxels of a kernel


def kernel_maps(
    studies: Studies,
    grid: BrainGrid,
    fwhm_mm: float,
    combine: Combine = "noisy_or",
    dtype: DTypeLike = np.float16,
) -> NDArray:
    """Maps of all studies, shape (n_studies, grid.n_voxels), values in [0, 1]."""
    maps = np.zeros((len(studies), grid.n_voxels), dtype)
    per_chunk = max(1, FOCI_PER_CHUNK // len(_offsets(grid, fwhm_mm)))
    for first, last in _chunks(studies.starts, per_chunk):
        foci = slice(studies.starts[first], studies.starts[last])
        rows = studies.study_of_focus[foci] - first
        maps[first:last] = combine_kernels(studies.points[foci], rows, last - first, grid, fwhm_mm, combine)
    return maps


def _chunks(starts: NDArray[np.int64], n_foci: int) -> Iterator[tuple[int, int]]:
    """First and last row of runs of studies with at most `n_foci` foci, one study at least."""
    first, n = 0, len(starts) - 1
    while first < n:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + n_foci, "right")) - 1)
        yield first, last
        first = last


def kernel_map(
    points_mm: NDArray,
    grid: BrainGrid,
    fwhm_mm: float,
    combine: Combine = "noisy_or",
    precision: NDArray | None = None,
) -> NDArray[np.float32]:
    """Map of one set of foci (n, 3) in mm, shape (n_voxels,).

    Arguments:
        precision: Inverse covariances of the kernels in mm^-2, shape (n, 3, 3), from `augmented_precision`; None for
            isotropic kernels.
    """
    rows = np.zeros(len(points_mm), np.int64)
    return combine_kernels(np.asarray(points_mm), rows, 1, grid, fwhm_mm, combine, precision)[0]


def combine_kernels(
    points_mm: NDArray,
    rows: NDArray[np.int64],
    n_rows: int,
    grid: BrainGrid,
    fwhm_mm: float,
    combine: Combine,
    precision: NDArray | None = None,
) -> NDArray[np.float32]:
    """Maps (n_rows, n_voxels) of foci (n, 3), each of which belongs to one row. Foci off the grid are ignored."""
    place, kernel = _kernels(points_mm, rows, grid, fwhm_mm, precision)
    size = n_rows * grid.n_voxels
    if combine == "noisy_or":
        with np.errstate(divide="ignore"):  # a kernel of 1 gives -inf, and a map of 1
            out = -np.expm1(np.bincount(place, np.log1p(-kernel), size))
    elif combine == "sum":
        out = np.bincount(place, kernel, size)
    elif combine == "max":
        out = np.zeros(size, np.float32)
        np.maximum.at(out, place, kernel)
    else:
        raise ValueError(f"combine must be noisy_or, sum or max; got {combine!r}")
    return np.clip(out, 0, 1).astype(np.float32).reshape(n_rows, grid.n_voxels)


def _kernels(
    points_mm: NDArray, rows: NDArray[np.int64], grid: BrainGrid, fwhm_mm: float, precision: NDArray | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions in flat maps and values of all kernels, where they are in the mask and not negligible."""
    centre = grid.indices(points_mm)
    on_grid = ((centre >= 0) & (centre < grid.shape)).all(1)
    centre, rows = centre[on_grid], rows[on_grid]
    offsets = _offsets(grid, fwhm_mm if precision is None else fwhm_mm * SCALING[1])
    margin = int(offsets.max(initial=0))
    lookup = np.pad(grid.lookup, margin, constant_values=-1)
    strides = np.array([lookup.shape[1] * lookup.shape[2], lookup.shape[2], 1])
    voxel = lookup.ravel()[((centre + margin) @ strides)[:, None] + offsets @ strides]
    residual = (grid.affine[:3, 3] + centre @ grid.affine[:3, :3].T - points_mm[on_grid]).astype(np.float32)
    exponent = _exponent(residual, (offsets @ grid.affine[:3, :3].T).astype(np.float32), fwhm_mm,
                         None if precision is None else precision[on_grid])  # fmt: skip
    keep = (voxel >= 0) & (exponent > np.log(NEGLIGIBLE))
    return (rows[:, None] * grid.n_voxels + voxel)[keep], np.exp(exponent[keep])


def _exponent(
    residual: NDArray[np.float32], offsets_mm: NDArray[np.float32], fwhm_mm: float, precision: NDArray | None
) -> NDArray[np.float32]:
    """log k of every focus and voxel of its kernel, shape (n, n_offsets)."""
    if precision is None:
        scale = np.float32(-0.5 * (FWHM_OVER_SIGMA / fwhm_mm) ** 2)
        cross = residual @ offsets_mm.T
        return scale * ((residual**2).sum(1)[:, None] + 2 * cross + (offsets_mm**2).sum(1))
    distance = residual[:, None] + offsets_mm
    return -0.5 * np.einsum("nki,nij,nkj->nk", distance, precision.astype(np.float32), distance, optimize=True)


def _offsets(grid: BrainGrid, fwhm_mm: float) -> NDArray[np.int64]:
    """Voxel offsets of a kernel around the nearest voxel of its focus, shape (n_offsets, 3)."""
    reach_mm = fwhm_mm / FWHM_OVER_SIGMA * np.sqrt(-2 * np.log(NEGLIGIBLE))
    radius = np.ceil(reach_mm / grid.spacing_mm - 0.5).astype(int)
    box = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in radius), indexing="ij"), -1).reshape(-1, 3)
    nearest = np.maximum(np.abs(box) - 0.5, 0) * grid.spacing_mm  # distance if the focus is at the border of its voxel
    return box[np.linalg.norm(nearest, axis=1) <= reach_mm]


def augmented_precision(n: int, fwhm_mm: float, random: np.random.Generator) -> NDArray:
    """Inverse covariances (n, 3, 3) in mm^-2 of kernels scaled by U(0.8, 1.2) along each axis of a random frame."""
    from scipy.spatial.transform import Rotation

    frames = Rotation.random(n, random_state=random).as_matrix()
    sigma = fwhm_mm / FWHM_OVER_SIGMA * random.uniform(*SCALING, (n, 1, 3))
    return (frames / sigma**2) @ frames.transpose(0, 2, 1)


def kernel_sums(studies: Studies, grid: BrainGrid, fwhm_mm: float) -> sparse.csr_matrix:
    """Sums of the kernels of each study's foci, not clipped: sparse, shape (n_studies, n_voxels), float32."""
    shape, parts = (len(studies), grid.n_voxels), [sparse.csr_matrix((0, grid.n_voxels), dtype=np.float32)]
    per_chunk = max(1, FOCI_PER_CHUNK // len(_offsets(grid, fwhm_mm)))
    for first, last in _chunks(studies.starts, per_chunk):
        foci = slice(studies.starts[first], studies.starts[last])
        rows = studies.study_of_focus[foci] - first
        place, kernel = _kernels(studies.points[foci], rows, grid, fwhm_mm, None)
        indices = (place // shape[1], place % shape[1])
        parts.append(sparse.csr_matrix((kernel, indices), (last - first, shape[1])))
    return sparse.vstack(parts, format="csr")


def foci_counts(studies: Studies, grid: BrainGrid) -> sparse.csr_matrix:
    """Number of foci of each study in each voxel of the mask, shape (n_studies, n_voxels), float32."""
    voxel = grid.mask_index(studies.points)
    rows, columns = studies.study_of_focus[voxel >= 0], voxel[voxel >= 0]
    ones = np.ones(len(rows), np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), (len(studies), grid.n_voxels))
