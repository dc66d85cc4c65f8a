"""Reader of scans: a 3D image that can be used, or an error with the reason.

Images are float32, on their own grid; affines are 4x4, voxel to world in mm, RAS+. The header is checked before any
data is read (`headers`), and a file is read to its end, where gzip stores its checksum. Intensities may be negative. A
scan that cannot be used raises `BadScan` with one sentence, "kind: value found and way out".
"""

import errno
import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from neuromf.data.headers import BadScan, Header, format_shape, read_header, require
from neuromf.data.sources.walk import missing_reason

MIN_VIEW_MM = 10.0  # field of view of a scan along any axis; volumes.min_extent_mm asks for more
MAX_TAIL = 2**20  # bytes after the voxels that are accepted as padding
GZIP = b"\x1f\x8b"
NIFTI = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}  # first bytes of a header
POINTERS = {b"/annex/objects/": "datalad get", b"version https://git-lfs": "git lfs pull --include"}
DAMAGED = (OSError, EOFError, ValueError, TypeError, zlib.error, ImageFileError, HeaderDataError)
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOMEM}


def read_scan(path: str | Path, *, nan: str = "refuse") -> nib.Nifti1Image:
    """A 3D float32 image with finite, non-constant data and a known orientation.

    Trailing axes of length one are dropped. A slope of 0, NaN or Inf means unscaled data, as in the NIfTI standard.
    The list image.extra["notes"] says what was corrected or is ambiguous.

    Arguments:
        path: NIfTI file.
        nan: "refuse" a scan with NaN, or read NaN as "zero", as SPM writes the background.

    Raises:
        BadScan: If the file is anything else.
    """
    image, name = read_image(path, nan=nan), Path(path).name
    view = nib.affines.voxel_sizes(image.affine) * image.shape
    require(
        view.min() >= MIN_VIEW_MM,
        f"field of view: {name} is {format_shape(view, '.3g')} mm, at least {MIN_VIEW_MM:g} mm are needed along each "
        "axis; correct the unit or the voxel sizes of its header",
    )
    data = image.get_fdata(dtype=np.float32)
    require(data.min() < data.max(), f"constant: every voxel of {name} is {data.min():g}; export the scan again")
    return image


def read_image(path: str | Path, *, nan: str = "refuse") -> nib.Nifti1Image:
    """A scan or a mask, float32, as `read_scan`, but of any extent and possibly constant."""
    path = Path(path)
    header = open_image(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # overflows become Inf or NaN, counted below
            data = _load(path, header.image).get_fdata(dtype=np.float32).reshape(header.image.shape[:3])
    except DAMAGED as error:
        if isinstance(error, BadScan):
            raise
        reraise_machine_errors(error)
        raise BadScan(
            f"damaged: the data of {path.name} end too early or are broken ({error}); copy it again"
        ) from error
    data, notes = _finite(path.name, data, nan)
    return nib.Nifti1Image(data, header.affine, extra={"notes": header.notes + notes})


def open_image(path: Path) -> Header:
    """The checked header of a file; its data are not read yet.

    Raises:
        BadScan: If the file or its header cannot be used.
    """
    _check_file(path)
    try:
        return read_header(path)
    except DAMAGED as error:
        if isinstance(error, BadScan):
            raise
        reraise_machine_errors(error)
        raise BadScan(f"unreadable: {path.name} cannot be read as NIfTI ({error}); convert or copy it again") from error


def _finite(name: str, data: NDArray, nan: str) -> tuple[NDArray, list[str]]:
    """The data with NaN as 0 if `nan` is zero, and a note; other data that are not finite are refused."""
    n_nan, n_inf = (int(np.count_nonzero(test(data))) for test in (np.isnan, np.isinf))
    if nan == "zero" and n_nan and not n_inf:
        return np.nan_to_num(data), [f"{n_nan} NaN read as 0"]
    remedy = "if NaN is the background, as in images of SPM, set volumes.nan to zero" if n_nan else "export it again"
    require(
        n_nan + n_inf == 0, f"not finite: {name} has {n_nan} NaN and {n_inf} Inf among {data.size} voxels; {remedy}"
    )
    return data, []


def _check_file(path: Path) -> None:
    """Refuse a file that cannot be opened, or whose first bytes are not those of its name."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(132)
    except (FileNotFoundError, NotADirectoryError):
        raise BadScan(missing_reason(path, "file") or f"missing file: {path} does not exist") from None
    except PermissionError as error:
        raise BadScan(f"no permission: {path} cannot be read; change its mode or that of its folder") from error
    except IsADirectoryError:
        raise BadScan(f"not a file: {path} is a folder; correct the pattern") from None
    require(size, f"empty file: {path.name} has 0 bytes; copy or download it again")
    _check_start(path, start)


def _check_start(path: Path, start: bytes) -> None:
    name, plain = path.name, path.name.removesuffix(".gz")
    for pointer, command in POINTERS.items():
        require(
            not start.startswith(pointer),
            f"missing file: {name} is a pointer to content that is not on this machine; run: {command} {path}",
        )
    require(start[128:] != b"DICM", f"DICOM: {name} is a DICOM file; convert it with dcm2niix")
    require(
        not (name.endswith(".gz") and start[:4] in NIFTI),
        f"wrong name: {name} is not compressed, although its name ends in .gz; rename it to {plain}",
    )
    require(
        not (name.endswith((".nii", ".img", ".hdr")) and start.startswith(GZIP)),
        f"wrong name: {name} is compressed by gzip, although its name does not end in .gz; rename it to {name}.gz",
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
    require(len(data) <= most, f"too long: {path.name} unpacks to more than {claim}; convert it again")
    return type(image).from_bytes(data)  # type: ignore[attr-defined]  # defined for single files


def reraise_machine_errors(error: BaseException) -> None:
    """Raise the error again if the machine caused it, not the scan: a full disk, no memory, too many open files."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in MACHINE:
        raise error


def quarantine_reason(error: Exception) -> str:
    """Why the scan of this error is quarantined; an error that the machine caused is raised again."""
    reraise_machine_errors(error)
    return str(error) if isinstance(error, BadScan) else f"unexpected {type(error).__name__}: {error}"
