"""The study's grid: any scan brought to its axes, voxels and intensities, and volumes in and out as NIfTI.

Arrays are RAS+ with shape (I, J, K), affines are 4x4, float64, voxel to world in mm, and stay true: a point of
the head keeps its world position through every step here. Prepared intensities lie in [0, 1].

What a scan must be to be used stands in `scans`, the tools that may work on it first in `tools`.
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
from scipy import ndimage

from neuromf.data import external_tools
from neuromf.data.foreground import centre, head, is_stripped, measures
from neuromf.data.nifti import write_volume
from neuromf.data.scans import BadScan, by, read_image, read_scan, reraise_trouble_of_the_machine

logger = logging.getLogger(__name__)


SMOOTH_ABOVE = 1.5  # ratio of voxel sizes beyond which bilinear resampling alone would alias
RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
QC_COLUMNS = ["scan", "person", "split", "status", "reason", "coverage", "extent_mm", "foreground_ml", "mean"]
QC_COLUMNS += ["stripped_by", "bias_field", "native_shape", "native_spacing_mm", "native_axes", "volume"]


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
    stripper: external_tools.Stripper | None = None,
    bias_field: str = "none",
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One scan on the grid of the study: RAS+, isotropic, in [0, 1], cropped or padded around the foreground.

    The foreground is the mask where there is one, which may have a grid of its own, else what a stripper finds, else
    the head. Voxels outside a mask, given or found, become 0. Along axes whose voxels grow more than 1.5 times,
    a Gaussian first removes what the coarser grid cannot hold (sigma from the ratio of sizes); finer or like
    grids are not smoothed.

    Arguments:
        shape: Voxels per axis of the result, (I, J, K).
        percentiles: Of the intensities inside the foreground; they become 0 and 1, what lies beyond is clipped.
        stripper: Finds the brain where there is no mask and the scan was not stripped already.
        bias_field: "n4" takes the smooth field out before intensities are scaled, "none" leaves it.
    Returns:
        The volume (float32), its affine, and facts: coverage (share of the foreground inside the result), extent_mm
        (of the foreground, right-left by front-back by top-bottom), foreground_ml, mean (of the result, inside),
        stripped_by, bias_field, native_shape, native_spacing_mm, native_axes, oblique_deg, and low and high
        (intensities that became 0, 1).
    Raises:
        BadScan: If the scan or its mask cannot be used, or a tool fails on it.
    """
    _check_settings(spacing_mm, shape, percentiles, bias_field)
    scan = read_scan(path)
    image = _resample(scan, spacing_mm)
    values, affine = image[0].numpy(), image.affine.numpy().astype(float)
    inside, stripped_by = _foreground(scan, image, mask, stripper)
    if bias_field == "n4":
        values, bias_field = (
            external_tools.without_bias_field(values, inside, spacing_mm),
            f"n4 {external_tools.n4_version()}",
        )
    low, high = (float(value) for value in np.percentile(values[inside], percentiles))
    if low >= high:
        raise BadScan(f"constant: inside its foreground {Path(path).name} is {low:g} from percentile to percentile")
    volume = window(values, *percentiles, inside=inside)
    facts = _facts(scan) | measures(volume, inside, spacing_mm) | {"low": low, "high": high}
    if mask or stripped_by == str(stripper):
        volume = volume * inside
    middle = centre(inside, spacing_mm, whole_head=stripped_by == "none")
    start = np.floor(middle - np.array(shape) / 2).astype(int)
    facts["coverage"] = int(_crop_or_pad(inside, start, shape).sum()) / int(inside.sum())
    moved = nib.affines.from_matvec(affine[:3, :3], nib.affines.apply_affine(affine, start))
    return _crop_or_pad(volume, start, shape), moved, facts | {"stripped_by": stripped_by, "bias_field": bias_field}


def _foreground(
    scan: nib.Nifti1Image, image: MetaTensor, mask: str | Path | None, stripper: external_tools.Stripper | None
) -> tuple[np.ndarray, str]:
    """Where the foreground is on the grid of the image, and who said so: mask, already, a tool, or none."""
    if mask:
        return _mask_like(image, read_image(mask), Path(mask).name), "mask"
    values = image[0].numpy()
    if is_stripped(scan.get_fdata(dtype=np.float32)):
        return values > values.min(), "already"
    if stripper is None:
        return head(values, stripped=False), "none"
    name = f"the mask that {stripper} left"
    return _mask_like(image, external_tools.brain_mask(stripper, scan), name), str(stripper)


def _check_settings(spacing_mm: float, shape: Sequence[int], percentiles: Sequence[float], bias_field: str) -> None:
    if not 0 < spacing_mm < float("inf"):
        raise ValueError(f"spacing_mm must be above 0; got {spacing_mm}")
    if len(shape) != 3 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"shape must be three whole numbers of voxels above 0; got {tuple(shape)}")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles must be low < high within 0 and 100; got {tuple(percentiles)}")
    if bias_field not in ("none", "n4"):
        raise ValueError(f"bias_field must be none or n4; got {bias_field}")


def _facts(scan: nib.Nifti1Image) -> dict[str, Any]:
    return {
        "native_shape": by(scan.shape),
        "native_spacing_mm": by(nib.affines.voxel_sizes(scan.affine), ".2f"),
        "native_axes": "".join(nib.aff2axcodes(scan.affine)),
        "oblique_deg": round(float(np.degrees(nib.affines.obliquity(scan.affine).max())), 2),
    }


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
    return Spacing(spacing_mm, diagonal=False, mode="bilinear", padding_mode="border")(image)  # type: ignore[return-value]  # as it came


def _mask_like(image: MetaTensor, mask: nib.Nifti1Image, name: str) -> np.ndarray:
    """A mask on the grid of an image, matched in world space, by nearest voxel."""
    tensor = _tensor(mask.get_fdata(dtype=np.float32) > 0, mask.affine)
    inside = ResampleToMatch(mode="nearest", padding_mode="zeros")(tensor, image)[0].numpy() > 0.5
    if not inside.any():
        raise BadScan(f"empty mask: no voxel of {name} above 0 lies on the scan; are both in the same space?")
    return inside


def _crop_or_pad(array: np.ndarray, start: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The box of this shape from voxel `start` on, 0 where it reaches beyond the array."""
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
    spacing_mm: float,
    shape: tuple[int, int, int],
    percentiles: tuple[float, float] = (0.0, 99.5),
    bias_field: str = "none",
    strip: str = "none",
    skull_strip_device: str = "cpu",
    skull_strip_timeout_s: float = 1800,
) -> pd.DataFrame:
    """What became of each scan of a participants table; those that can be used are written as folder/scan.nii.gz.

    Arguments:
        bias_field: "n4" or "none".
        strip: "synthstrip" or "hd-bet", for scans without a mask, or "none".
        skull_strip_device: "cpu" or "cuda".
        skull_strip_timeout_s: Seconds that stripping one scan may take.
    Returns:
        One row per scan, with status "accepted" or "quarantined", the reason, the facts of `prepare`, and the path
        of the volume ("" if none).
    Raises:
        MissingTool: If a tool that is asked for is not installed; no scan is touched then.
    """
    _check_settings(spacing_mm, shape, percentiles, bias_field)
    settings = {"spacing_mm": spacing_mm, "shape": tuple(shape), "percentiles": tuple(percentiles)}
    settings |= {"bias_field": bias_field, "stripper": None}
    if bias_field == "n4":
        external_tools.n4_version()
    if strip != "none":
        settings["stripper"] = external_tools.find_stripper(
            strip, device=skull_strip_device, timeout_s=skull_strip_timeout_s
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
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
    result |= dict.fromkeys(QC_COLUMNS[4:], "") | dict.fromkeys(("coverage", "foreground_ml", "mean"), float("nan"))
    try:
        if row["problem"]:
            raise BadScan(row["problem"])
        volume, affine, facts = prepare(row["file"], mask=row["mask"] or None, **settings)
    except external_tools.MissingTool:
        raise
    except Exception as error:
        reraise_trouble_of_the_machine(error)
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
