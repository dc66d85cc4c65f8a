"""NIfTI in and out: from any T1 scan to the grid and intensities of the study, or the reason why not.

Arrays are RAS+ with shape (I, J, K), affines are 4x4, float64, voxel to world in mm, and stay true: a point of
the head keeps its world position through every step here. Prepared intensities lie in [0, 1].

A scan that cannot be used raises `BadScan` with one sentence, "kind: what was found and what to do".
"""

import errno
import gzip
import logging
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Orientation,
    ResampleToMatch,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
    Spacing,
)
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage
from skimage.filters import threshold_otsu

logger = logging.getLogger(__name__)

MAX_AXIS, MAX_VOXELS = 1024, 2**30
MAX_SHEAR_DEG = 1.0
STRIPPED_ABOVE = 1 / 3  # share of voxels at the lowest value that says a scan has no background noise left
SMOOTH_ABOVE = 1.5  # ratio of voxel sizes beyond which bilinear resampling alone would alias
LEVELS = 32767  # steps of int16 between 0 and 1
RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
DAMAGED = (OSError, EOFError, ValueError, TypeError, zlib.error, ImageFileError, HeaderDataError)
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE}
QC_COLUMNS = ["scan", "person", "split", "status", "reason", "coverage"]
QC_COLUMNS += ["native_shape", "native_spacing_mm", "native_axes", "volume"]


class BadScan(ValueError):
    """The reason why one scan is set aside while the others go on."""


def read_scan(path: str | Path) -> nib.Nifti1Image:
    """A 3D float32 image with finite, varying data and a known orientation.

    The header is judged before any data is read. Trailing axes of length one are dropped.

    Raises:
        BadScan: If the file is anything else.
    """
    image = _read(Path(path))
    data = image.get_fdata(dtype=np.float32)
    if data.min() == data.max():
        raise BadScan(f"constant: every voxel of {Path(path).name} is {data.min():g}; export the scan again")
    return image


def _read(path: Path) -> nib.Nifti1Image:
    """A scan or a mask, in float32, all checks done but that it varies."""
    if not path.exists():
        raise BadScan(f"missing file: {path} does not exist")
    if path.stat().st_size == 0:
        raise BadScan(f"empty file: {path.name} has 0 bytes; copy or download it again")
    image, pixdim = _open(path)
    _check_header(path.name, image, pixdim)
    image = nib.squeeze_image(image)
    try:
        with np.errstate(over="ignore"):  # becomes Inf, which is counted below
            data = image.get_fdata(dtype=np.float32)
        _check_gzip(path)
    except DAMAGED as error:
        _reraise_trouble_of_the_machine(error)
        raise BadScan(
            f"damaged: the data of {path.name} end too early or are broken ({error}); copy it again"
        ) from error
    wrong = [int(np.count_nonzero(test(data))) for test in (np.isnan, np.isinf)]
    if any(wrong):
        raise BadScan(f"not finite: {path.name} has {wrong[0]} NaN and {wrong[1]} Inf among {data.size} voxels")
    return nib.Nifti1Image(data, image.affine)


def _open(path: Path) -> tuple[nib.Nifti1Pair, np.ndarray]:
    """The image, its data still on disk, and the voxel sizes as written (nibabel would repair them unsaid)."""
    try:
        image = nib.load(path)
        if isinstance(image, nib.Nifti1Pair):
            holder = image.file_map["header" if "header" in image.file_map else "image"]
            with holder.get_prepare_fileobj("rb") as file:
                raw = type(image.header).from_fileobj(file, check=False)
            return image, np.asarray(raw["pixdim"][1:4], float)
    except DAMAGED as error:
        _reraise_trouble_of_the_machine(error)
        raise BadScan(f"unreadable: {path.name} cannot be read as NIfTI ({error}); convert or copy it again") from error
    raise BadScan(f"not NIfTI: {path.name} is {type(image).__name__}; convert it to .nii.gz")


def _check_header(name: str, image: nib.Nifti1Pair, pixdim: np.ndarray) -> None:
    """Refuse, before any data is read, what the header says cannot be a head."""
    shape = image.shape
    if not shape or min(shape) < 1:
        raise BadScan(f"empty: {name} has shape {_by(shape)}, so no voxels")
    if len(shape) < 3 or min(shape[:3]) < 2 or max(shape[3:], default=1) > 1:
        raise BadScan(f"not 3D: {name} has shape {_by(shape)}, wanted three axes; extract one volume first")
    if max(shape) > MAX_AXIS or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise BadScan(
            f"too large: the header of {name} claims {_by(shape)} voxels, at most {MAX_AXIS} per axis are read"
        )
    if image.get_data_dtype().kind not in "iuf":
        raise BadScan(f"not numbers: {name} stores {image.get_data_dtype()}, wanted integers or floats; convert it")
    if image.header["sform_code"] == image.header["qform_code"] == 0:
        raise BadScan(
            f"no orientation: sform_code and qform_code of {name} are 0, so left and right are unknown; "
            "convert it from DICOM again"
        )
    _check_affine(name, image.affine, pixdim)


def _check_affine(name: str, affine: np.ndarray, pixdim: np.ndarray) -> None:
    sizes = np.concatenate([nib.affines.voxel_sizes(affine), np.abs(pixdim), np.abs(affine[:3, 3]) + 1])
    if not (np.isfinite(sizes).all() and (sizes > 1e-6).all()):
        raise BadScan(f"no voxel size: {name} has voxels of {_by(pixdim, 'g')} mm and affine {affine[:3].tolist()}")
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    shear = np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1)))
    if shear > MAX_SHEAR_DEG:
        raise BadScan(
            f"sheared: axes of {name} are {shear:.1f} degrees off a right angle, at most {MAX_SHEAR_DEG:g}; resample it"
        )


def _check_gzip(path: Path) -> None:
    """Read a gzip file to its end, where the checksum stands; nibabel stops before it."""
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            while file.read(1 << 22):
                pass


def _reraise_trouble_of_the_machine(error: BaseException) -> None:
    """A full disk or too many open files is no fault of the scan: it stops the run."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in MACHINE:
        raise error


def window(array: np.ndarray, low: float, high: float, inside: np.ndarray | None = None) -> np.ndarray:
    """The array scaled so that its low and high percentiles are 0 and 1, clipped there.

    Arguments:
        low: Percentile that becomes 0, in [0, 100]; high is the one that becomes 1.
        inside: Voxels whose percentiles count, all where not given; every voxel is scaled.
    """
    if inside is None:
        return np.asarray(ScaleIntensityRangePercentiles(low, high, b_min=0, b_max=1, clip=True)(array))
    bottom, top = np.percentile(array[inside], (low, high))
    return np.asarray(ScaleIntensityRange(bottom, top, b_min=0, b_max=1, clip=True)(array))


def prepare(
    path: str | Path,
    *,
    spacing_mm: float,
    shape: tuple[int, int, int],
    mask: str | Path | None = None,
    percentiles: tuple[float, float] = (0.0, 99.5),
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One scan on the grid of the study: RAS+, isotropic, in [0, 1], cropped or padded around the foreground.

    The foreground is the mask where there is one, which may have a grid of its own, and else the head. Voxels
    outside a given mask become 0. Along axes whose voxels grow more than 1.5 times, a Gaussian first removes
    what the coarser grid cannot hold (sigma from the ratio of sizes); finer or like grids are not smoothed.

    Arguments:
        shape: Voxels per axis of the result, (I, J, K).
        percentiles: Of the intensities inside the foreground; they become 0 and 1, what lies beyond is clipped.
    Returns:
        The volume (float32), its affine, and facts: coverage (share of the foreground inside the result),
        native_shape, native_spacing_mm, native_axes, oblique_deg, and low and high (intensities that became 0, 1).
    Raises:
        BadScan: If the scan or its mask cannot be used.
    """
    _check_settings(spacing_mm, shape, percentiles)
    scan = read_scan(path)
    image = _resample(scan, spacing_mm)
    values, affine = image[0].numpy(), image.affine.numpy().astype(float)
    inside = _mask_like(image, Path(mask)) if mask else head(values)
    low, high = (float(value) for value in np.percentile(values[inside], percentiles))
    if low >= high:
        raise BadScan(f"constant: inside its foreground {Path(path).name} is {low:g} from percentile to percentile")
    volume = window(values, *percentiles, inside=inside)
    if mask:
        volume = volume * inside
    start = _centred(inside, shape)
    coverage = int(_crop_or_pad(inside, start, shape).sum()) / int(inside.sum())
    moved = nib.affines.from_matvec(affine[:3, :3], nib.affines.apply_affine(affine, start))
    return _crop_or_pad(volume, start, shape), moved, _facts(scan) | {"coverage": coverage, "low": low, "high": high}


def _check_settings(spacing_mm: float, shape: Sequence[int], percentiles: Sequence[float]) -> None:
    if not 0 < spacing_mm < float("inf"):
        raise ValueError(f"spacing_mm must be above 0; got {spacing_mm}")
    if len(shape) != 3 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"shape must be three whole numbers of voxels above 0; got {tuple(shape)}")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles must be low < high within 0 and 100; got {tuple(percentiles)}")


def _facts(scan: nib.Nifti1Image) -> dict[str, Any]:
    return {
        "native_shape": _by(scan.shape),
        "native_spacing_mm": _by(nib.affines.voxel_sizes(scan.affine), ".2f"),
        "native_axes": "".join(nib.aff2axcodes(scan.affine)),
        "oblique_deg": round(float(np.degrees(nib.affines.obliquity(scan.affine).max())), 2),
    }


def _by(numbers: Sequence[float], form: str = "d") -> str:
    return "x".join(format(n, form) for n in numbers)


def _tensor(data: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(data, np.float32))[None], affine=torch.from_numpy(affine))


def _resample(scan: nib.Nifti1Image, spacing_mm: float) -> MetaTensor:
    """The scan in RAS+ with isotropic voxels, smoothed before where voxels grow much."""
    data = scan.get_fdata(dtype=np.float32)
    ratio = spacing_mm / nib.affines.voxel_sizes(scan.affine)
    if (ratio > SMOOTH_ABOVE).any():
        # widths add in squares: a Gaussian as wide (FWHM) as the new voxel from one as wide as the old
        sigma = np.where(ratio > SMOOTH_ABOVE, np.sqrt(np.maximum(ratio**2 - 1, 0) / (8 * np.log(2))), 0)
        data = ndimage.gaussian_filter(data, sigma, mode="nearest")
    image = Orientation("RAS", labels=RAS_LABELS)(_tensor(data, scan.affine))
    return Spacing(spacing_mm, diagonal=False, mode="bilinear", padding_mode="border")(image)


def _mask_like(image: MetaTensor, path: Path) -> np.ndarray:
    """A mask file on the grid of an image, matched in world space, by nearest voxel."""
    mask = _read(path)
    tensor = _tensor(mask.get_fdata(dtype=np.float32) > 0, mask.affine)
    inside = ResampleToMatch(mode="nearest", padding_mode="zeros")(tensor, image)[0].numpy() > 0.5
    if not inside.any():
        raise BadScan(f"empty mask: no voxel of {path.name} above 0 lies on the scan; are both in the same space?")
    return inside


def head(array: np.ndarray) -> np.ndarray:
    """Where the head is: the largest bright piece (Otsu), what it encloses in any plane, a rim of two voxels.

    Where over a third of the voxels hold one and the same lowest value, the scan was stripped of its
    background already, and all above that value is foreground.
    """
    if np.mean(array == array.min()) > STRIPPED_ABOVE:
        return array > array.min()
    top = np.percentile(array, 99.5)
    array = np.minimum(array, top) if top > array.min() else array
    bright = array > threshold_otsu(array)
    labels, _ = ndimage.label(bright)
    inside = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    for axis in range(3):
        # dark fluid and bone are enclosed by scalp in some plane even where, in 3D, an ear canal leads to them
        in_plane = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
        inside = ndimage.binary_fill_holes(inside, in_plane)
    return ndimage.binary_dilation(inside, iterations=2)


def _centred(inside: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """First voxel of the box of this shape that has the foreground in its middle; it may lie outside."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    return np.array([(side.start + side.stop - n) // 2 for side, n in zip(box, shape, strict=True)])


def _crop_or_pad(array: np.ndarray, start: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The box of this shape from voxel `start` on, 0 where it reaches beyond the array."""
    result = np.zeros(tuple(int(n) for n in shape), array.dtype)
    low, high = np.maximum(start, 0), np.minimum(start + shape, array.shape)
    if (low < high).all():
        source = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        result[tuple(slice(*ends) for ends in zip(low - start, high - start, strict=True))] = array[source]
    return result


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
    image = nib.load(path)
    return image.get_fdata(dtype=np.float32), image.affine


def prepare_shard(
    table: pd.DataFrame,
    folder: str | Path,
    *,
    spacing_mm: float,
    shape: tuple[int, int, int],
    percentiles: tuple[float, float] = (0.0, 99.5),
) -> pd.DataFrame:
    """What became of each scan of a participants table; those that can be used are written as folder/scan.nii.gz.

    Returns:
        One row per scan, with status "accepted" or "quarantined", the reason, the coverage (share of the
        foreground inside the volume), what the native grid was, and the path of the volume ("" if none).
    """
    _check_settings(spacing_mm, shape, percentiles)
    Path(folder).mkdir(parents=True, exist_ok=True)
    settings = {"spacing_mm": spacing_mm, "shape": tuple(shape), "percentiles": tuple(percentiles)}
    rows, start = [], time.monotonic()
    for done, row in enumerate(table.to_dict("records"), start=1):
        rows.append(_prepare_row(row, Path(folder), settings))
        if done % 20 == 0 or done == len(table):
            speed = done / max(time.monotonic() - start, 1e-9)
            left = (len(table) - done) / speed
            logger.info("%d of %d scans, %.2f per second, %.0f s left", done, len(table), speed, left)
    return pd.DataFrame(rows, columns=QC_COLUMNS)


def _prepare_row(row: dict[str, Any], folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The qc row of one scan, after its volume was written, or an older one removed."""
    path = folder / f"{row['scan']}.nii.gz"
    result = {name: row[name] for name in ("scan", "person", "split")}
    result |= dict.fromkeys(QC_COLUMNS[4:], "") | {"coverage": float("nan")}
    try:
        if row["problem"]:
            raise BadScan(row["problem"])
        volume, affine, facts = prepare(row["file"], mask=row["mask"] or None, **settings)
    except Exception as error:
        _reraise_trouble_of_the_machine(error)
        path.unlink(missing_ok=True)
        reason = str(error) if isinstance(error, BadScan) else f"unexpected {type(error).__name__}: {error}"
        logger.warning("%s set aside, %s", row["scan"], reason)
        return result | {"status": "quarantined", "reason": reason}
    write_volume(path, volume, affine)
    facts = {name: facts[name] for name in QC_COLUMNS if name in facts}
    return result | facts | {"status": "accepted", "volume": str(path)}


def of_split(table: pd.DataFrame, split: str) -> list[str]:
    """Files of the accepted volumes of a split, in the order of a qc table."""
    return table.loc[(table["status"] == "accepted") & (table["split"] == split), "volume"].tolist()


def read_volumes(paths: Sequence[str | Path]) -> torch.Tensor:
    """Volumes of one study as a float16 tensor (N, 1, I, J, K): its rounding is below that of 8-bit intensities."""
    return torch.stack([torch.from_numpy(read_volume(path)[0]).half()[None] for path in paths])
