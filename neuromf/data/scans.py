"""Reader of scans: a 3D image that can be used, or an error with the reason.

Images are float32, on their own grid; affines are 4x4, voxel to world in mm, RAS+. The header is checked before any
data is read, and a file is read to its end, where gzip stores its checksum. Intensities may be negative. A
scan that cannot be used raises `BadScan` with one sentence, "kind: value found and way out".
"""

import errno
import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

MAX_AXIS, MAX_VOXELS = 1024, 2**30
MAX_SHEAR_DEG = 1.0
MAX_TAIL = 2**20  # bytes after the voxels that are accepted as padding
MAX_EXPANSION = {".nii": 1, ".img": 1, ".gz": 1032}  # largest ratio of uncompressed to compressed size
DAMAGED = (OSError, EOFError, ValueError, TypeError, zlib.error, ImageFileError, HeaderDataError)
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOMEM}


class BadScan(ValueError):
    """The reason why a scan is excluded; the other scans are processed."""


def read_scan(path: str | Path) -> nib.Nifti1Image:
    """A 3D float32 image with finite, non-constant data and a known orientation.

    Trailing axes of length one are dropped. A slope of 0, NaN or Inf means unscaled data, as in the NIfTI standard.

    Raises:
        BadScan: If the file is anything else.
    """
    image = read_image(path)
    data = image.get_fdata(dtype=np.float32)
    if data.min() == data.max():
        raise BadScan(f"constant: every voxel of {Path(path).name} is {data.min():g}; export the scan again")
    return image


def read_image(path: str | Path) -> nib.Nifti1Image:
    """A scan or a mask, float32, with all checks of `read_scan` except that for constant data."""
    path = Path(path)
    _check_file(path)
    image, pixdim = _open(path)
    _check_header(path.name, image, pixdim)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # overflows become Inf or NaN, counted below
            data = nib.squeeze_image(_load(path, image)).get_fdata(dtype=np.float32)
    except DAMAGED as error:
        if isinstance(error, BadScan):
            raise
        reraise_machine_errors(error)
        raise BadScan(
            f"damaged: the data of {path.name} end too early or are broken ({error}); copy it again"
        ) from error
    n_nan, n_inf = (int(np.count_nonzero(test(data))) for test in (np.isnan, np.isinf))
    _require(n_nan + n_inf == 0, f"not finite: {path.name} has {n_nan} NaN and {n_inf} Inf among {data.size} voxels")
    return nib.Nifti1Image(data, image.affine)


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise BadScan(f"missing file: {path} does not exist") from None
    except PermissionError as error:
        raise BadScan(f"no permission: {path} cannot be read; change its mode or that of its folder") from error
    except IsADirectoryError:
        raise BadScan(f"not a file: {path} is a folder; correct the pattern") from None
    _require(size, f"empty file: {path.name} has 0 bytes; copy or download it again")


def _open(path: Path) -> tuple[nib.Nifti1Pair, NDArray]:
    """The image, without its data, and the voxel sizes in the file, which nibabel would repair silently."""
    try:
        image = nib.load(path)
        if isinstance(image, nib.Nifti1Pair):
            holder = image.file_map["header" if "header" in image.file_map else "image"]
            with holder.get_prepare_fileobj("rb") as file:
                raw = type(image.header).from_fileobj(file, check=False)
            return image, np.asarray(raw["pixdim"][1:4], float)
    except DAMAGED as error:
        reraise_machine_errors(error)
        raise BadScan(f"unreadable: {path.name} cannot be read as NIfTI ({error}); convert or copy it again") from error
    raise BadScan(f"not NIfTI: {path.name} is {type(image).__name__}; convert it to .nii.gz")


def _check_header(name: str, image: nib.Nifti1Pair, pixdim: NDArray) -> None:
    """Refuse a header that cannot describe a 3D scan, before any data is read."""
    shape, dtype = image.shape, image.get_data_dtype()
    axes = format_shape(shape)
    _require(shape and min(shape) >= 1, f"empty: {name} has shape {axes}, so no voxels")
    is_3d = len(shape) >= 3 and min(shape[:3]) >= 2 and max(shape[3:], default=1) == 1
    _require(is_3d, f"not 3D: {name} has shape {axes}, expected three axes; extract one volume first")
    fits = max(shape) <= MAX_AXIS and int(np.prod(shape, dtype=object)) <= MAX_VOXELS
    _require(fits, f"too large: the header of {name} claims {axes} voxels, at most {MAX_AXIS} per axis are read")
    _require(dtype.kind in "iuf", f"not numbers: {name} stores {dtype}, expected integers or floats; convert it")
    _require(
        image.header["sform_code"] or image.header["qform_code"],
        f"no orientation: sform_code and qform_code of {name} are 0, so left and right are unknown; "
        "convert it from DICOM again",
    )
    _check_size(name, image)
    _check_affine(name, image.affine, pixdim)


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise BadScan(reason)


def _check_size(name: str, image: nib.Nifti1Pair) -> None:
    """Refuse a header that claims more voxels than the file can hold, before memory is allocated."""
    file = Path(image.file_map["image"].filename)  # type: ignore[arg-type]  # read from a file
    size, claimed = file.stat().st_size, int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    _require(
        size * MAX_EXPANSION.get(file.suffix, np.inf) >= claimed,
        f"damaged: the data of {name} end too early or are broken ({size} bytes for {format_shape(image.shape)} "
        f"voxels, which take {claimed}); copy it again",
    )


def _check_affine(name: str, affine: NDArray, pixdim: NDArray) -> None:
    sizes = np.concatenate([nib.affines.voxel_sizes(affine), np.abs(pixdim), np.abs(affine[:3, 3]) + 1])
    found = f"voxels of {format_shape(pixdim, 'g')} mm and affine {affine[:3].tolist()}"
    _require(np.isfinite(sizes).all() and (sizes > 1e-6).all(), f"no voxel size: {name} has {found}")
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    shear = np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1)))
    allowed = f"at most {MAX_SHEAR_DEG:g}"
    _require(
        shear <= MAX_SHEAR_DEG,
        f"sheared: axes of {name} are {shear:.1f} degrees off a right angle, {allowed}; resample it",
    )


def _load(path: Path, image: nib.Nifti1Pair) -> nib.Nifti1Pair:
    """The image with its data decompressed in memory if it is a single gzip file, else unchanged.

    nibabel stops before the checksum of gzip, and a few bytes of gzip can expand to any size.
    """
    if path.suffix != ".gz" or "header" in image.file_map:
        return image
    voxels = int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    most = int(image.header["vox_offset"]) + voxels + MAX_TAIL
    with gzip.open(path) as file:
        data = file.read(most + 1)
    claim = f"the {format_shape(image.shape)} voxels that its header claims"
    _require(len(data) <= most, f"too long: {path.name} unpacks to more than {claim}; convert it again")
    return type(image).from_bytes(data)  # type: ignore[attr-defined]  # defined for single files


def reraise_machine_errors(error: BaseException) -> None:
    """Raise the error again if the machine caused it, not the scan: a full disk, no memory, too many open files."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in MACHINE:
        raise error


def quarantine_reason(error: Exception) -> str:
    """Why the scan of this error is quarantined; an error that the machine caused is raised again."""
    reraise_machine_errors(error)
    return str(error) if isinstance(error, BadScan) else f"unexpected {type(error).__name__}: {error}"


def format_shape(numbers: Iterable[float], form: str = "d") -> str:
    """Numbers as in 128x128x75."""
    return "x".join(format(n, form) for n in numbers)
