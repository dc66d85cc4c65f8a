"""Headers of NIfTI files: whether they describe a 3D image whose place in the world is known, before data are read.

Affines are 4x4, voxel to world in mm, RAS+. A header that cannot be used raises `BadScan` with one sentence, "kind:
value found and way out".
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

MAX_AXIS, MAX_VOXELS = 1024, 2**30
MAX_SHEAR_DEG = 1.0
MAX_VIEW_MM = 1000.0  # field of view along any axis
MAX_SIZE_RATIO = 1.5  # between voxel sizes of sform and qform
SHIFT_MM, TURN_DEG = 1.0, 1.0  # differences between sform and qform that are noted
QUATERNION = 1e-2  # excess over length 1 of a quaternion that counts as rounding
UNITS = {1: ("metre", 1000.0), 3: ("micron", 0.001)}  # codes of xyzt_units, and mm per unit; mm and unknown are mm
MAX_EXPANSION = {".nii": 1, ".img": 1, ".gz": 1032}  # largest ratio of uncompressed to compressed size
CLASSES = (nib.Nifti1Pair, nib.Nifti1Image, nib.Nifti2Pair, nib.Nifti2Image)


class BadScan(ValueError):
    """The reason why a scan is excluded; the other scans are processed."""


class Header(NamedTuple):
    """An image whose data are not read yet.

    Attributes:
        image: The image; its own affine ignores the unit, and a sform that cannot be used.
        affine: Voxel to world in mm.
        notes: What was corrected or is ambiguous, for quality control.
    """

    image: nib.Nifti1Pair
    affine: NDArray
    notes: list[str]


def format_shape(numbers: Iterable[float], form: str = "d") -> str:
    """Numbers as in 128x128x75."""
    return "x".join(format(n, form) for n in numbers)


def require(condition: object, reason: str) -> None:
    """Raise `BadScan` with a reason if the condition is false."""
    if not condition:
        raise BadScan(reason)


def read_header(path: Path) -> Header:
    """The header of a file of NIfTI.

    Raises:
        BadScan: If the header cannot describe a 3D image.
        Exception: Any error of nibabel, if the file is not NIfTI or damaged.
    """
    image = _open(path)
    require(
        isinstance(image, nib.Nifti1Pair), f"not NIfTI: {path.name} is {type(image).__name__}; convert it to .nii.gz"
    )
    holder = image.file_map["header" if "header" in image.file_map else "image"]
    with holder.get_prepare_fileobj("rb") as file:
        raw = type(image.header).from_fileobj(file, check=False)  # nibabel repairs voxel sizes silently
    _check_shape(path.name, image)
    _check_size(path.name, image)
    unit, scale = UNITS.get(int(raw["xyzt_units"]) & 7, ("mm", 1.0))
    affine, notes = _affine(path.name, image)
    affine = np.vstack([affine[:3] * scale, affine[3:]])
    _check_affine(path.name, affine, scale * np.asarray(raw["pixdim"][1:4], float))
    view = nib.affines.voxel_sizes(affine) * image.shape[:3]
    require(
        (view <= MAX_VIEW_MM).all(),
        f"field of view: {path.name} is {format_shape(view, '.4g')} mm, at most {MAX_VIEW_MM:g} mm are read along each "
        f"axis; its voxel sizes are in {unit}: correct the unit of its header (xyzt_units), or the voxel sizes",
    )
    return Header(image, affine, notes + ([f"voxel sizes in {unit}"] if scale != 1 else []))


def _open(path: Path) -> Any:  # noqa: ANN401  # any image of nibabel
    """The image; a quaternion whose length is above 1 by rounding is accepted."""
    try:
        return nib.load(path)
    except (HeaderDataError, ValueError) as error:
        if "w2 should be positive" not in str(error):
            raise
        found = next((cls for cls in map(_tolerant, CLASSES) if cls.path_maybe_image(str(path))[0]), None)
        if found is None:
            raise
        return found.from_filename(path)


def _tolerant(image: Any) -> Any:  # noqa: ANN401  # a class of nibabel
    """The class of images, with a larger tolerance for the length of quaternions."""
    header = type(image.header_class.__name__, (image.header_class,), {"quaternion_threshold": -QUATERNION})
    return type(image.__name__, (image,), {"header_class": header})


def _check_shape(name: str, image: nib.Nifti1Pair) -> None:
    shape, dtype = image.shape, image.get_data_dtype()
    axes = format_shape(shape)
    require(shape and min(shape) >= 1, f"empty: {name} has shape {axes}, so no voxels")
    is_3d = len(shape) >= 3 and min(shape[:3]) >= 2 and max(shape[3:], default=1) == 1
    require(is_3d, f"not 3D: {name} has shape {axes}, expected three axes; extract one volume first")
    fits = max(shape) <= MAX_AXIS and int(np.prod(shape, dtype=object)) <= MAX_VOXELS
    require(fits, f"too large: the header of {name} claims {axes} voxels, at most {MAX_AXIS} per axis are read")
    require(dtype.kind in "iuf", f"not numbers: {name} stores {dtype}, expected integers or floats; convert it")


def _check_size(name: str, image: nib.Nifti1Pair) -> None:
    """Refuse a header that claims more voxels than the file can hold, before memory is allocated."""
    file = Path(image.file_map["image"].filename)  # type: ignore[arg-type]  # read from a file
    size, claimed = file.stat().st_size, int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    require(
        size * MAX_EXPANSION.get(file.suffix, np.inf) >= claimed,
        f"damaged: the data of {name} end too early or are broken ({size} bytes for {format_shape(image.shape)} "
        f"voxels, which take {claimed}); copy it again",
    )


def _affine(name: str, image: nib.Nifti1Pair) -> tuple[NDArray, list[str]]:
    """The sform if it can be used, else the qform, as they stand in the header; and notes."""
    codes = image.header["sform_code"], image.header["qform_code"]
    require(
        any(codes),
        f"no orientation: sform_code and qform_code of {name} are 0, so left and right are unknown; "
        "convert it from DICOM again",
    )
    sform, qform = (_usable(read) for read in (image.header.get_sform, image.header.get_qform))
    if sform is None or qform is None:
        found = sform if sform is not None else qform
        note = ["the sform cannot be used; the qform is"] if codes[0] and sform is None and qform is not None else []
        return (image.affine if found is None else found), note
    return sform, _compare(name, sform, qform, image.shape[:3])


def _usable(read: Any) -> NDArray | None:  # noqa: ANN401  # a method of a header
    """An affine of the header; None if its code is 0 or it has no inverse."""
    try:
        affine = read(coded=True)[0]
    except (HeaderDataError, ValueError):
        return None
    if affine is None or not np.isfinite(affine).all():
        return None
    sizes = nib.affines.voxel_sizes(affine)
    regular = (sizes > 0).all() and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3
    return affine if regular else None


def _compare(name: str, sform: NDArray, qform: NDArray, shape: tuple[int, ...]) -> list[str]:
    """Refuse two affines with different axes, handedness or voxel sizes; note a smaller difference."""
    sizes = [nib.affines.voxel_sizes(affine) for affine in (sform, qform)]
    units = [affine[:3, :3] / size for affine, size in zip((sform, qform), sizes, strict=True)]
    cosines = units[0].T @ units[1]
    axes = ["".join(nib.aff2axcodes(affine)) for affine in (sform, qform)]
    agree = (np.diag(cosines) > 0).all() and (np.abs(cosines).argmax(axis=0) == np.arange(3)).all()
    require(
        agree,
        f"two orientations: the sform of {name} has the axes {axes[0]}, its qform {axes[1]}, so left and right may be "
        "exchanged; convert it from DICOM again, or set the code of the wrong one to 0",
    )
    same_size = np.maximum(sizes[0] / sizes[1], sizes[1] / sizes[0]).max() <= MAX_SIZE_RATIO
    text = [format_shape(size, ".3g") for size in sizes]
    require(
        same_size,
        f"two voxel sizes: the sform of {name} has {text[0]} mm, its qform {text[1]} mm; correct the wrong one",
    )
    middle = (np.array(shape) - 1) / 2
    shift = np.linalg.norm(np.subtract(*(nib.affines.apply_affine(affine, middle) for affine in (sform, qform))))
    turn = np.degrees(np.arccos(np.clip(np.diag(cosines).min(), -1, 1)))
    if shift <= SHIFT_MM and turn <= TURN_DEG:
        return []
    return [f"sform and qform differ by {shift:.0f} mm and {turn:.0f} degrees; the sform is used"]


def _check_affine(name: str, affine: NDArray, pixdim: NDArray) -> None:
    sizes = np.concatenate([nib.affines.voxel_sizes(affine), np.abs(pixdim), np.abs(affine[:3, 3]) + 1])
    found = f"voxels of {format_shape(pixdim, 'g')} mm and affine {affine[:3].tolist()}"
    require(np.isfinite(sizes).all() and (sizes > 1e-6).all(), f"no voxel size: {name} has {found}")
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    shear = np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1)))
    allowed = f"at most {MAX_SHEAR_DEG:g}"
    require(
        shear <= MAX_SHEAR_DEG,
        f"sheared: axes of {name} are {shear:.1f} degrees off a right angle, {allowed}; resample it",
    )
