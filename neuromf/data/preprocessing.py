"""Preprocessing of scans: reorient to RAS+, resample, skull strip, rescale and crop to the grid of the study.

Arrays are RAS+ with shape (I, J, K); affines are 4x4, float64, voxel to world in mm. Every step keeps the world
position of a point of the head. Prepared intensities lie in [0, 1]. `scans` decides whether a scan can be used.
"""

import logging
import time
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
from numpy.typing import NDArray
from scipy import ndimage

from neuromf.data import external_tools
from neuromf.data.background import clean_background
from neuromf.data.foreground import crop_centre, foreground_mask, foreground_measures, is_skull_stripped
from neuromf.data.masks import brain_mask_of
from neuromf.data.nifti import volume_digest, write_volume
from neuromf.data.scans import BadScan, format_shape, quarantine_reason, read_image, read_scan

logger = logging.getLogger(__name__)

SMOOTH_ABOVE = 1.5  # ratio of voxel sizes above which bilinear resampling alone would alias
RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
QC_COLUMNS = ["scan", "participant", "split", "status", "reason", "coverage", "extent_mm", "foreground_ml", "mean"]
QC_COLUMNS += ["stripped_by", "bias_field", "native_shape", "native_spacing_mm", "native_axes", "note", "digest"]
QC_COLUMNS += ["volume"]


def rescale_intensities(array: NDArray, low: float, high: float, inside: NDArray | None = None) -> NDArray:
    """The array rescaled so that its percentiles `low` and `high` become 0 and 1, clipped to [0, 1].

    Arguments:
        array: Intensities, any shape.
        low, high: Percentiles, in [0, 100].
        inside: Voxels whose percentiles count, default all; every voxel is rescaled.
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
    stripper: external_tools.SkullStripper | None = None,
    already_stripped: str = "auto",
    bias_field: str = "none",
    min_extent_mm: float = 0.0,
    nan: str = "refuse",
) -> tuple[NDArray, NDArray, dict[str, Any]]:
    """One scan on the grid of the study: RAS+, isotropic, in [0, 1], cropped or padded around the foreground.

    The foreground is the mask if given, else the brain mask of the skull stripper, else the head. Voxels outside a
    brain mask become 0. An axis whose voxels grow more than 1.5 times is smoothed first with a Gaussian.

    Arguments:
        path: NIfTI file.
        spacing_mm: Isotropic voxel size in mm.
        shape: Shape of the result, (I, J, K).
        mask: NIfTI file of the brain mask, on any grid.
        percentiles: Percentiles of the foreground that become 0 and 1; intensities beyond are clipped.
        stripper: Skull stripper for a scan without a mask.
        already_stripped: "detect": a scan whose background was removed is not stripped again; "never": every scan is
            stripped; "auto": "never" with a stripper, else "detect".
        bias_field: "n4" corrects the bias field before intensities are rescaled, "none" does not.
        min_extent_mm: Smallest field of view along any axis: scouts and localisers have a few slices.
        nan: "refuse" a scan with NaN, or read NaN as "zero".

    Returns:
        The volume (I, J, K), float32; its affine; and facts: coverage (fraction of the foreground inside the crop),
        extent_mm (of the foreground, right-left x front-back x top-bottom), foreground_ml, mean (of the foreground),
        stripped_by, bias_field, native_shape, native_spacing_mm, native_axes, oblique_deg, low and high (intensities
        that became 0 and 1), note (what was corrected or is ambiguous).

    Raises:
        BadScan: If the scan or its mask cannot be used, or a tool fails on it.
    """
    _check_settings(spacing_mm, shape, percentiles, bias_field)
    native = read_scan(path, nan=nan)
    _check_extent(native, Path(path).name, min_extent_mm)
    scan, offset = clean_background(native)
    image = _resample(scan, spacing_mm)
    values, affine = image[0].numpy(), image.affine.numpy().astype(float)
    detect = already_stripped == "detect" or (already_stripped == "auto" and stripper is None)
    brain = read_image(mask, nan=nan) if mask else None
    inside, stripped_by = _foreground(scan, image, brain, stripper, name=Path(mask or path).name, detect=detect)
    if bias_field == "n4":
        values = external_tools.correct_bias_field(values, inside, spacing_mm)
        bias_field = f"n4 {external_tools.n4_version()}"
    low, high = (float(value) for value in np.percentile(values[inside], percentiles))
    if low >= high:
        raise BadScan(
            f"constant: inside its foreground {Path(path).name} is {low + offset:g} from percentile to percentile"
        )
    volume = rescale_intensities(values, *percentiles, inside=inside)
    facts = _native_facts(scan) | foreground_measures(volume, inside, spacing_mm)
    facts |= {"low": low + offset, "high": high + offset}
    if stripped_by != "none":
        volume = volume * inside
    centre = crop_centre(inside, spacing_mm, whole_head=stripped_by == "none")
    start = np.floor(centre - np.array(shape) / 2).astype(int)
    facts["coverage"] = int(_crop_or_pad(inside, start, shape).sum()) / int(inside.sum())
    moved = nib.affines.from_matvec(affine[:3, :3], nib.affines.apply_affine(affine, start))
    return _crop_or_pad(volume, start, shape), moved, facts | {"stripped_by": stripped_by, "bias_field": bias_field}


def _check_extent(scan: nib.Nifti1Image, name: str, min_extent_mm: float) -> None:
    view = nib.affines.voxel_sizes(scan.affine) * scan.shape
    if view.min() < min_extent_mm:
        raise BadScan(
            f"scout: {name} covers {format_shape(view, '.3g')} mm, at least volumes.min_extent_mm = {min_extent_mm:g} "
            "mm are needed along each axis; leave out scouts, localisers and slabs"
        )


def _foreground(
    scan: nib.Nifti1Image,
    image: MetaTensor,
    brain: nib.Nifti1Image | None,
    stripper: external_tools.SkullStripper | None,
    *,
    name: str,
    detect: bool,
) -> tuple[NDArray, str]:
    """Mask of the foreground on the grid of `image`, and its origin: "mask", "already", "none" or a skull stripper."""
    if brain is not None:
        return _resample_mask(image, brain, name), "mask"
    values, voxel_ml = image[0].numpy(), abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000
    if detect and is_skull_stripped(scan.get_fdata(dtype=np.float32), voxel_ml):
        return values > values.min(), "already"
    if stripper is None:
        return foreground_mask(values, stripped=False), "none"
    return _resample_mask(image, external_tools.brain_mask(stripper, scan), f"the mask of {stripper}"), str(stripper)


def _check_settings(spacing_mm: float, shape: Sequence[int], percentiles: Sequence[float], bias_field: str) -> None:
    if not 0 < spacing_mm < float("inf"):
        raise ValueError(f"spacing_mm must be above 0; got {spacing_mm}")
    if len(shape) != 3 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"shape must be three whole numbers of voxels above 0; got {tuple(shape)}")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles must be low < high within 0 and 100; got {tuple(percentiles)}")
    if bias_field not in ("none", "n4"):
        raise ValueError(f"bias_field must be none or n4; got {bias_field}")


def _native_facts(scan: nib.Nifti1Image) -> dict[str, Any]:
    return {
        "native_shape": format_shape(scan.shape),
        "native_spacing_mm": format_shape(nib.affines.voxel_sizes(scan.affine), ".2f"),
        "native_axes": "".join(nib.aff2axcodes(scan.affine)),
        "oblique_deg": round(float(np.degrees(nib.affines.obliquity(scan.affine).max())), 2),
        "note": "; ".join(scan.extra["notes"]),
    }


def _tensor(data: NDArray, affine: NDArray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(data, np.float32))[None], affine=torch.from_numpy(affine))


def _resample(scan: nib.Nifti1Image, spacing_mm: float) -> MetaTensor:
    """The scan in RAS+ with isotropic voxels, smoothed first along axes whose voxels grow much."""
    data = scan.get_fdata(dtype=np.float32)
    ratio = spacing_mm / nib.affines.voxel_sizes(scan.affine)
    if (ratio > SMOOTH_ABOVE).any():
        # variances add: a Gaussian with the width (FWHM) of the new voxel from one with that of the old voxel
        sigma = np.where(ratio > SMOOTH_ABOVE, np.sqrt(np.maximum(ratio**2 - 1, 0) / (8 * np.log(2))), 0)
        data = ndimage.gaussian_filter(data, sigma, mode="nearest")
    image = Orientation("RAS", labels=RAS_LABELS)(_tensor(data, scan.affine))
    return Spacing(spacing_mm, diagonal=False, mode="bilinear", padding_mode="border")(image)  # type: ignore[return-value]  # a MetaTensor, as given


def _resample_mask(image: MetaTensor, mask: nib.Nifti1Image, name: str) -> NDArray:
    """A mask on the grid of an image, matched in world space, by nearest neighbour."""
    tensor = _tensor(brain_mask_of(mask, name), mask.affine)
    inside = ResampleToMatch(mode="nearest", padding_mode="zeros")(tensor, image)[0].numpy() > 0.5
    if not inside.any():
        raise BadScan(f"empty mask: no voxel of {name} above 0 lies on the scan; are both in the same space?")
    return inside


def _crop_or_pad(array: NDArray, start: NDArray, shape: Sequence[int]) -> NDArray:
    """The box of a shape from voxel `start` on, 0 outside the array."""
    result = np.zeros(tuple(int(n) for n in shape), array.dtype)
    low, high = np.maximum(start, 0), np.minimum(start + shape, array.shape)
    if (low < high).all():
        source = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        result[tuple(slice(*ends) for ends in zip(low - start, high - start, strict=True))] = array[source]
    return result


def prepare_shard(
    table: pd.DataFrame,
    folder: str | Path,
    *,
    shard: int = 0,
    n_shards: int = 1,
    spacing_mm: float,
    shape: tuple[int, int, int],
    percentiles: tuple[float, float] = (0.0, 99.5),
    bias_field: str = "none",
    skull_strip: str = "none",
    skull_strip_device: str = "cpu",
    skull_strip_timeout_s: float = 1800,
    already_stripped: str = "auto",
    min_extent_mm: float = 0.0,
    nan: str = "refuse",
) -> pd.DataFrame:
    """Prepare every n_shards-th scan of a participants table; usable ones are written as folder/{scan}.nii.gz.

    Arguments:
        table: Participants table.
        folder: Output folder.
        shard: Number of this shard, in 0..n_shards - 1.
        n_shards: Number of shards.
        spacing_mm, shape, percentiles, bias_field: As in `prepare`.
        skull_strip: "deepbet", "synthstrip" or "hd-bet" for scans without a mask, or "none".
        skull_strip_device: "cpu" or "cuda".
        skull_strip_timeout_s: Time limit of skull stripping per scan, in seconds.
        already_stripped, min_extent_mm, nan: As in `prepare`.

    Returns:
        One row per scan: status "accepted" or "quarantined", reason, facts of `prepare`, and path of the volume.

    Raises:
        ValueError: If a setting is invalid.
        MissingTool: If a requested tool is not installed; no scan is read then.
    """
    _check_settings(spacing_mm, shape, percentiles, bias_field)
    if not 0 <= shard < n_shards:
        raise ValueError(f"shard must be in 0..{n_shards - 1}, as n_shards is {n_shards}; got {shard}")
    settings = {"spacing_mm": spacing_mm, "shape": tuple(shape), "percentiles": tuple(percentiles)}
    settings |= {"bias_field": bias_field, "stripper": None, "already_stripped": already_stripped}
    settings |= {"min_extent_mm": min_extent_mm, "nan": nan}
    if bias_field == "n4":
        external_tools.n4_version()
    if skull_strip != "none":
        settings["stripper"] = external_tools.find_skull_stripper(
            skull_strip, device=skull_strip_device, timeout_s=skull_strip_timeout_s
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    table, rows, start = table.iloc[shard::n_shards], [], time.monotonic()
    for done, row in enumerate(table.to_dict("records"), start=1):
        rows.append(_prepare_row(row, Path(folder), settings))
        if done % 20 == 0 or done == len(table):
            rate = done / max(time.monotonic() - start, 1e-9)
            left = (len(table) - done) / rate
            logger.info("%d of %d scans, %.2f per second, %.0f s left", done, len(table), rate, left)
    return pd.DataFrame(rows, columns=QC_COLUMNS)


def _prepare_row(row: dict[str, Any], folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the volume of one scan, or remove an older one; returns its qc row."""
    path = folder / f"{row['scan']}.nii.gz"
    result = {name: row[name] for name in ("scan", "participant", "split")}
    result |= dict.fromkeys(QC_COLUMNS[4:], "") | dict.fromkeys(("coverage", "foreground_ml", "mean"), float("nan"))
    try:
        if row["problem"]:
            raise BadScan(row["problem"])
        volume, affine, facts = prepare(row["file"], mask=row["mask"] or None, **settings)
    except external_tools.MissingTool:
        raise
    except Exception as error:
        reason = quarantine_reason(error)
        path.unlink(missing_ok=True)
        logger.warning("%s excluded, %s", row["scan"], reason)
        return result | {"status": "quarantined", "reason": reason}
    write_volume(path, volume, affine)
    facts = {name: facts[name] for name in QC_COLUMNS if name in facts}
    return result | facts | {"status": "accepted", "digest": volume_digest(volume), "volume": str(path)}


def volumes_of_split(table: pd.DataFrame, split: str) -> list[str]:
    """Paths of the accepted volumes of a split, in the order of the qc table."""
    return table.loc[(table["status"] == "accepted") & (table["split"] == split), "volume"].tolist()
