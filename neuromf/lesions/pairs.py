"""Pairs of FLAIR and lesion mask on the grid of the study. Unusable pairs are quarantined with a reason.

Images are prepared like any scan of the study (`preprocessing.prepare`). A mask may have its own grid: it is resampled
in world space by nearest neighbour. Splits are by participant, among participants with usable pairs. A table of pairs
has one row per scan: scan, participant, split, image and mask (files, shape (I, J, K), RAS+), lesion_ml.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from neuromf.data import external_tools
from neuromf.data.foreground import foreground_mask
from neuromf.data.masks import marks_outside
from neuromf.data.nifti import read_volume, read_volumes, volume_digest, write_mask, write_volume
from neuromf.data.participants import (
    SPLITS,
    count_reasons,
    exclude_duplicates,
    log_origins,
    read_table,
    split_by_participant,
    tidy,
    write_table,
)
from neuromf.data.preprocessing import prepare
from neuromf.data.scans import BadScan, format_shape, open_image, quarantine_reason, read_image
from neuromf.data.sources.pairs import read_pairs
from neuromf.lesions.mask_encoding import check_encoding, encode
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)

PAIR_COLUMNS = ["scan", "participant", "split", "image", "mask", "lesion_ml"]
QC_COLUMNS = ["scan", "participant", "split", "status", "reason", "lesion_ml", "native_ml", "inside", "coverage"]
QC_COLUMNS += ["stripped_by", "native_shape", "native_spacing_mm", "note", "digest", "image", "mask"]
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}  # of participants, by split
TOLERANCE = 0.01  # deviation from a binary mask, as a fraction of its maximum, due to interpolation or integer scaling
MAX_DISTANCE_MM = 5.0  # between the centres of image and mask of the same shape
MIN_FRACTION = 0.5  # of a lesion inside the foreground, and on the grid
MAX_FRACTION, MAX_ML = 0.3, 500.0  # of the foreground that is lesion, and its volume; gliomas have at most 142 ml here
LOG_EVERY = 10  # pairs between two log lines


# --- all pairs ---------------------------------------------------------------------------------------


def prepare_pairs(
    *,
    source: str,
    volumes: Mapping[str, Any],
    folder: Path,
    out: Path,
    split: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    bids: Mapping[str, Any] | None = None,
    pairs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Prepare the pairs of a source and split them by participant. Writes pairs.tsv and qc.tsv into `out`.

    Arguments:
        source: bids or pairs.
        volumes: spacing_mm, shape, percentiles, bias_field, already_stripped, min_extent_mm and nan as in
            `preprocessing.prepare`; skull_strip (none, or the tool for images without brain mask), skull_strip_device
            and skull_strip_timeout_s.
        folder: Folder of {scan}_FLAIR.nii.gz and {scan}_mask.nii.gz.
        split: Fraction of participants by split, of participants with usable pairs.
        seed: Seed of the split.
        bids: Arguments of `sources.pairs.bids_pairs`, for source bids.
        pairs: Arguments of `sources.pairs.folder_pairs`, for source pairs.

    Returns:
        Table of quality control with one row per scan: accepted, or quarantined with the reason.

    Raises:
        ValueError: If no image is found, or no pair is in training; the message names the reasons.
    """
    table = tidy(read_pairs(source, **({"bids": bids, "pairs": pairs}.get(source) or {"root": ""})))
    grid, rows = prepare_settings(**volumes), []
    for done, row in enumerate(table.to_dict("records"), start=1):
        rows.append(_prepare_row(row, folder, grid))
        if done % LOG_EVERY == 0 or done == len(table):
            n_bad = sum(row["status"] == "quarantined" for row in rows)
            logger.info("%d of %d pairs prepared, %d of them quarantined", done, len(table), n_bad)
    qc = pd.DataFrame(rows, columns=QC_COLUMNS)
    qc["split"] = split_by_participant(table.assign(problem=qc["reason"].to_numpy()), split, seed).to_numpy()
    qc = exclude_duplicates(qc, image="", mask="")
    write_table(qc, out / "qc.tsv")
    accepted = qc.loc[qc["status"] == "accepted", PAIR_COLUMNS]
    reasons = count_reasons(qc)
    if "train" not in accepted["split"].tolist():
        raise ValueError(
            f"no training pair among {len(qc)} scans (quarantined: {reasons}); see the column reason of "
            f"{out / 'qc.tsv'}, and the fractions of participants in lesions.split"
        )
    write_table(accepted, out / "pairs.tsv")
    log_origins(qc)
    logger.info("%d pairs, %d scans quarantined: %s", len(accepted), len(qc) - len(accepted), reasons)
    return qc


def prepare_settings(
    *, skull_strip: str = "none", skull_strip_device: str = "cpu", skull_strip_timeout_s: float = 1800, **grid: Any
) -> dict[str, Any]:
    """Arguments of `preprocessing.prepare`, with the skull stripping tool."""
    if skull_strip == "none":
        return grid
    settings: dict[str, Any] = {"device": skull_strip_device, "timeout_s": skull_strip_timeout_s}
    return {**grid, "stripper": external_tools.find_skull_stripper(skull_strip, **settings)}


def _prepare_row(row: dict[str, Any], folder: Path, grid: Mapping[str, Any]) -> dict[str, Any]:
    """Row of quality control of one pair. Writes its files, or removes those of an earlier run."""
    image, mask = (folder / f"{row['scan']}_{kind}.nii.gz" for kind in ("FLAIR", "mask"))
    result = dict.fromkeys(QC_COLUMNS, "") | {"scan": row["scan"], "participant": row["participant"]}
    result |= dict.fromkeys(("lesion_ml", "native_ml", "inside", "coverage"), float("nan"))
    try:
        if row["problem"]:
            raise BadScan(row["problem"])
        volume, lesion, affine, facts = prepare_pair(row, **grid)
    except external_tools.MissingTool:
        raise
    except Exception as error:
        reason = quarantine_reason(error)
        image.unlink(missing_ok=True)
        mask.unlink(missing_ok=True)
        logger.warning("%s quarantined, %s", row["scan"], reason)
        return result | {"status": "quarantined", "reason": reason}
    write_volume(image, volume, affine)
    write_mask(mask, lesion, affine)
    facts = {name: facts[name] for name in QC_COLUMNS if name in facts}
    files = {"digest": volume_digest(volume), "image": str(image), "mask": str(mask)}
    return result | facts | files | {"status": "accepted"}


# --- one pair ----------------------------------------------------------------------------------------


def prepare_pair(row: Mapping[str, Any], **grid: Any) -> tuple[NDArray, NDArray, NDArray, dict]:
    """Image (float32, [0, 1]) and mask (uint8), both (I, J, K), their affine, and facts for quality control.

    Arguments:
        row: Paths file, mask and brain; brain is "" if there is no brain mask.
        grid: Arguments of `preprocessing.prepare`.

    Raises:
        BadScan: If image or mask is unusable, or they do not lie in one space.
    """
    lesion = read_mask(row["mask"], nan=grid.get("nan", "refuse"))
    volume, affine, facts = prepare(row["file"], mask=row["brain"] or None, **grid)
    _check_distance(lesion, row)
    foreground = foreground_mask(volume)
    _check_is_lesion(lesion, foreground, affine, Path(row["mask"]).name)
    inside, coverage = _overlap(lesion, foreground, affine)
    name, percent = Path(row["mask"]).name, f"{100 * min(inside, coverage):.0f} % of the lesion"
    if coverage < MIN_FRACTION:
        shape = format_shape(volume.shape)
        raise BadScan(f"outside: {percent} of {name} lies on the study's grid {shape}; are they in one space?")
    if inside < MIN_FRACTION:
        raise BadScan(f"shifted: {percent} of {name} lies in the foreground; was its header lost?")
    mask = resample_from_to(lesion, (volume.shape, affine), order=0, cval=0).get_fdata() > 0.5
    native_ml = float(lesion.get_fdata().sum() * abs(np.linalg.det(lesion.affine[:3, :3]))) / 1000
    if not mask.any():
        raise BadScan(f"too small: the lesion of {name}, {native_ml:.2g} ml, meets no voxel of {grid['spacing_mm']} mm")
    lesion_ml = float(mask.sum()) * grid["spacing_mm"] ** 3 / 1000
    sizes = {"lesion_ml": lesion_ml, "native_ml": native_ml, "inside": inside, "coverage": coverage}
    return volume, mask.astype(np.uint8), affine, facts | {k: round(v, 4) for k, v in sizes.items()}


def read_mask(path: str | Path, *, nan: str = "refuse") -> nib.Nifti1Image:
    """Lesion mask as uint8 with values 0 and 1. In the file, any one value above 0 may stand for 1.

    Arguments:
        path: NIfTI file.
        nan: "refuse" a mask with NaN, or read NaN as "zero".

    Raises:
        BadScan: If the file is no readable image, or the mask is not binary or empty.
    """
    image, name = read_image(path, nan=nan), Path(path).name
    data = image.get_fdata(dtype=np.float32)
    top = float(data.max())
    if data.min() < -TOLERANCE * max(top, 1) or (np.abs(data - top * (data > top / 2)) > TOLERANCE * top).any():
        values = np.unique(data)
        span = f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
        raise BadScan(f"not binary: mask {name} has {span}, allowed are 0 and one value above; threshold it first")
    if top <= 0:
        raise BadScan(f"empty mask: {name} has no lesion voxel; draw the lesion, or leave this scan out")
    return nib.Nifti1Image((data > top / 2).astype(np.uint8), image.affine)


def _check_is_lesion(lesion: nib.Nifti1Image, foreground: NDArray, affine: NDArray, name: str) -> None:
    """Refuse a mask that marks the background, or too much of the foreground for a lesion; says what it looks like."""
    marked = np.asarray(lesion.dataobj) > 0
    if marks_outside(marked):
        raise BadScan(f"no lesion: {name} marks all corners of its image; it looks inverted: exchange 0 and 1")
    native_ml = float(marked.sum() * abs(np.linalg.det(lesion.affine[:3, :3]))) / 1000
    on_grid = resample_from_to(lesion, (foreground.shape, affine), order=0, cval=0).get_fdata() > 0.5
    fraction = np.count_nonzero(on_grid & foreground) / np.count_nonzero(foreground)
    if fraction <= MAX_FRACTION and native_ml <= MAX_ML:
        return
    holes = np.count_nonzero(ndimage.binary_fill_holes(marked)) > np.count_nonzero(marked)
    looks = "a lesion mask inverted inside the brain" if holes else "a brain mask, or a mask of the head"
    raise BadScan(
        f"no lesion: {name} marks {native_ml:.0f} ml, {100 * fraction:.0f} % of the foreground, at most {MAX_ML:g} ml "
        f"and {100 * MAX_FRACTION:g} % are read; it looks like {looks}"
    )


def _check_distance(lesion: nib.Nifti1Image, row: Mapping[str, Any]) -> None:
    """Refuse a mask of the image's shape with another place in the world: one of the headers is wrong."""
    image = open_image(Path(row["file"]))
    if image.image.shape[:3] != lesion.shape:
        return
    middle = (np.array(lesion.shape) - 1) / 2
    offset = np.subtract(*(nib.affines.apply_affine(it.affine, middle) for it in (image, lesion)))
    if (distance := float(np.linalg.norm(offset))) > MAX_DISTANCE_MM:
        name = Path(row["mask"]).name
        raise BadScan(f"shifted: {name} has the shape of its image but lies {distance:.0f} mm away; correct its affine")


def _overlap(lesion: nib.Nifti1Image, foreground: NDArray, affine: NDArray) -> tuple[float, float]:
    """Fractions of lesion voxels inside the foreground, and on the grid."""
    world = nib.affines.apply_affine(lesion.affine, np.argwhere(np.asarray(lesion.dataobj)))
    voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(affine), world)).astype(int)
    on_grid = ((voxel >= 0) & (voxel < foreground.shape)).all(1)
    return float(foreground[tuple(voxel[on_grid].T)].sum()) / len(voxel), float(on_grid.mean())


# --- prepared pairs ----------------------------------------------------------------------------------


def read_pair(row: Mapping[str, Any]) -> tuple[NDArray, NDArray]:
    """Image in [0, 1] and mask of 0 and 1, both (I, J, K) and float32, of a row of pairs."""
    image, mask = read_volume(row["image"])[0], read_volume(row["mask"])[0]
    return np.clip(image, 0, 1), (mask > 0.5).astype(np.float32)


def read_pair_volumes(table: pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Images and boolean masks (N, I, J, K) of a table of pairs. Images are rounded to float16."""
    images, masks = (read_volumes(table[name])[:, 0].float().numpy() for name in ("image", "mask"))
    return images, masks > 0.5


class FCDDataset(Dataset):
    """Pairs of FLAIR and lesion mask, with their latents if an autoencoder is given.

    Items are dicts: image (1, I, J, K) in [0, 1] and mask (1, I, J, K) of 0 and 1, both float32; scan and participant;
    latent (4 + k, I/4, J/4, K/4), not normalised, where k is `mask_encoding.CHANNELS` of the encoding.

    Arguments:
        data_dir: Folder with pairs.tsv, as written by `prepare_pairs`.
        mask_encoding: vae, downsample, distance or level.
        vae: Autoencoder.
        split: train, val or test; None for all.
    """

    def __init__(
        self,
        data_dir: str | Path,
        mask_encoding: str = "vae",
        vae: MAISIVAEWrapper | None = None,
        *,
        split: str | None = None,
    ) -> None:
        check_encoding(mask_encoding)
        if split not in (None, *SPLITS):
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, or None for all; got {split!r}")
        self.mask_encoding, self.vae = mask_encoding, vae
        self._latents: dict[int, Tensor] = {}
        pairs = read_table(Path(data_dir) / "pairs.tsv")
        self.pairs = (pairs[pairs["split"] == split] if split else pairs).reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Tensor | str]:
        row = self.pairs.iloc[number]
        image, mask = (torch.from_numpy(array)[None] for array in read_pair(row))
        item = {"image": image, "mask": mask, "scan": row["scan"], "participant": row["participant"]}
        if self.vae is None:
            return item
        if number not in self._latents:
            self._latents[number] = encode(self.vae, image[None], mask[None], self.mask_encoding)[0]
        return item | {"latent": self._latents[number]}
