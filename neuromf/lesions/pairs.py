"""Pairs of FLAIR and lesion mask on the grid of the study; what cannot be used is set aside with a reason.

An image goes through the same preparation as any scan of the study (`volumes.prepare`). Its mask, on whatever grid, is
matched in world space, by nearest voxel. Splits are by person, among those that can be used. A table of pairs has a row
per scan: scan, person, split, image and mask (files, shape (I, J, K), RAS+), lesion_ml.
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from neuromf.data import external_tools
from neuromf.data.foreground import head
from neuromf.data.nifti import read_volume, write_mask, write_volume
from neuromf.data.participants import read_table, split_by_participant, tidy, write_table
from neuromf.data.preprocessing import prepare
from neuromf.data.scans import BadScan, by, read_image, reraise_trouble_of_the_machine
from neuromf.data.sources.pairs import read_pairs
from neuromf.lesions.mask_encoding import CHANNELS, encode
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)

PAIR_COLUMNS = ["scan", "person", "split", "image", "mask", "lesion_ml"]
QC_COLUMNS = ["scan", "person", "split", "status", "reason", "lesion_ml", "native_ml", "inside", "coverage"]
QC_COLUMNS += ["stripped_by", "native_shape", "native_spacing_mm", "image", "mask"]
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}  # of people
TOLERANCE = 0.01  # of a mask's largest value: interpolation and scaled integers leave values a little off
FAR_MM = 5.0  # between the middles of image and mask of one shape
LEAST = 0.5  # share of a lesion in the head, and on the grid
EVERY = 10  # pairs between two lines of progress


# --- one pair ----------------------------------------------------------------------------------------


def read_mask(path: str | Path) -> nib.Nifti1Image:
    """A lesion mask of 0 and 1 (uint8); it may be stored as 0 and any one value above 0, a hundredth of it off.

    Raises:
        BadScan: If it cannot be read as an image, is not binary, or empty.
    """
    image, name = read_image(path), Path(path).name
    data = image.get_fdata(dtype=np.float32)
    top = float(data.max())
    if data.min() < -TOLERANCE * max(top, 1) or (np.abs(data - top * (data > top / 2)) > TOLERANCE * top).any():
        raise BadScan(
            f"not binary: mask {name} holds {_values(data)}, wanted 0 and one value above; threshold it first"
        )
    if top <= 0:
        raise BadScan(f"empty mask: {name} marks no voxel; draw the lesion, or leave this scan out")
    return nib.Nifti1Image((data > top / 2).astype(np.uint8), image.affine)


def _values(data: NDArray) -> str:
    found = np.unique(data)
    return f"{len(found)} values from {found[0]:g} to {found[-1]:g}"


def prepare_pair(row: Mapping[str, Any], **grid: Any) -> tuple[NDArray, NDArray, NDArray, dict]:
    """Image (float32, [0, 1]), mask (uint8), both (I, J, K), their affine, and facts of one row of a source.

    Arguments:
        row: With file, mask and brain, paths; "" where there is no brain mask.
        grid: Settings of `volumes.prepare`: spacing_mm, shape, percentiles, stripper, bias_field.
    Raises:
        BadScan: If image or mask cannot be used, or they do not belong together.
    """
    lesion = read_mask(row["mask"])
    volume, affine, facts = prepare(row["file"], mask=row["brain"] or None, **grid)
    _check_place(lesion, row)
    inside, coverage = _shares(lesion, head(volume), affine)
    name, text = Path(row["mask"]).name, f"{100 * min(inside, coverage):.0f} % of the lesion"
    if coverage < LEAST:
        raise BadScan(f"outside: {text} of {name} lies on the study's grid {by(volume.shape)}; are they in one space?")
    if inside < LEAST:
        raise BadScan(f"shifted: {text} of {name} lies in the head; was its header lost?")
    mask = resample_from_to(lesion, (volume.shape, affine), order=0, cval=0).get_fdata() > 0.5
    native_ml = float(lesion.get_fdata().sum() * abs(np.linalg.det(lesion.affine[:3, :3]))) / 1000
    if not mask.any():
        raise BadScan(f"too small: the lesion of {name}, {native_ml:.2g} ml, meets no voxel of {grid['spacing_mm']} mm")
    lesion_ml = float(mask.sum()) * grid["spacing_mm"] ** 3 / 1000
    told = {"lesion_ml": lesion_ml, "native_ml": native_ml, "inside": inside, "coverage": coverage}
    return volume, mask.astype(np.uint8), affine, facts | {k: round(v, 4) for k, v in told.items()}


def _check_place(lesion: nib.Nifti1Image, row: Mapping[str, Any]) -> None:
    """Refuse a mask of the image's shape that is said to lie elsewhere: one of the two headers is wrong."""
    image: Any = nib.load(row["file"])
    if image.shape[:3] != lesion.shape:
        return
    middle = (np.array(lesion.shape) - 1) / 2
    apart = np.subtract(*(nib.affines.apply_affine(it.affine, middle) for it in (image, lesion)))
    if (away := float(np.linalg.norm(apart))) > FAR_MM:
        name = Path(row["mask"]).name
        raise BadScan(f"shifted: {name} has the shape of its image but lies {away:.0f} mm away; correct its affine")


def _shares(lesion: nib.Nifti1Image, inside: NDArray, affine: NDArray) -> tuple[float, float]:
    """Shares of a lesion's voxels that lie in the head, and on the grid at all."""
    world = nib.affines.apply_affine(lesion.affine, np.argwhere(np.asarray(lesion.dataobj)))
    voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(affine), world)).astype(int)
    on = ((voxel >= 0) & (voxel < inside.shape)).all(1)
    return float(inside[tuple(voxel[on].T)].sum()) / len(voxel), float(on.mean())


# --- all pairs ---------------------------------------------------------------------------------------


def find_pairs(source: str, root: str | Path, **settings: Any) -> pd.DataFrame:
    """The table of images with lesion masks below root: scan, person, file, mask, brain, site, problem and more.

    Arguments:
        source: "bids" or "pairs"; settings are those of `sources.pairs.bids_pairs` or `folder_pairs`.
    Raises:
        ValueError: If there is no image, or a setting cannot be used as it is.
    """
    return tidy(read_pairs(source, root, **settings))


def prepare_pairs(
    table: pd.DataFrame,
    folder: str | Path,
    *,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    strip: str = "none",
    skull_strip_device: str = "cpu",
    skull_strip_timeout_s: float = 1800,
    **grid: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write folder/{scan}_FLAIR.nii.gz and folder/{scan}_mask.nii.gz of each pair that can be used.

    Arguments:
        table: From `find_pairs`.
        shares: Of people, by split; only those whose pairs can be used are shared out.
        grid: Settings of `volumes.prepare`.
    Returns:
        The pairs, and the qc table with a row for every scan: accepted, or quarantined and why.
    """
    if strip != "none":
        grid["stripper"] = external_tools.find_stripper(
            strip, device=skull_strip_device, timeout_s=skull_strip_timeout_s
        )
    rows = []
    for done, row in enumerate(table.to_dict("records"), start=1):
        rows.append(_prepare_row(row, Path(folder), grid))
        if done % EVERY == 0 or done == len(table):
            logger.info("%d of %d pairs, %d set aside", done, len(table), sum(r["reason"] != "" for r in rows))
    qc = pd.DataFrame(rows, columns=QC_COLUMNS)
    split = split_by_participant(table.assign(problem=qc["reason"].to_numpy()), shares, seed)
    qc["split"] = split.to_numpy()
    return qc.loc[qc["status"] == "accepted", PAIR_COLUMNS].reset_index(drop=True), qc


def _prepare_row(row: dict[str, Any], folder: Path, grid: Mapping[str, Any]) -> dict[str, Any]:
    """The qc row of one pair, after its files were written, or older ones removed."""
    image, mask = (folder / f"{row['scan']}_{kind}.nii.gz" for kind in ("FLAIR", "mask"))
    result = dict.fromkeys(QC_COLUMNS, "") | {"scan": row["scan"], "person": row["person"]}
    result |= dict.fromkeys(("lesion_ml", "native_ml", "inside", "coverage"), float("nan"))
    try:
        if row["problem"]:
            raise BadScan(row["problem"])
        volume, lesion, affine, facts = prepare_pair(row, **grid)
    except external_tools.MissingTool:
        raise
    except Exception as error:
        reraise_trouble_of_the_machine(error)
        image.unlink(missing_ok=True)
        mask.unlink(missing_ok=True)
        reason = str(error) if isinstance(error, BadScan) else f"unexpected {type(error).__name__}: {error}"
        logger.warning("%s set aside, %s", row["scan"], reason)
        return result | {"status": "quarantined", "reason": reason}
    write_volume(image, volume, affine)
    write_mask(mask, lesion, affine)
    facts = {name: facts[name] for name in QC_COLUMNS if name in facts}
    return result | facts | {"status": "accepted", "image": str(image), "mask": str(mask)}


class FCDDataset(Dataset):
    """Pairs of FLAIR and lesion mask, with their joint latents where an autoencoder is given.

    Items are dicts of image (1, I, J, K) in [0, 1] and mask (1, I, J, K) of 0 and 1, both float32, scan, person, and
    latent (4 + k, I/4, J/4, K/4), k being 1 or 4 as `masks.CHANNELS` has it for the strategy; not normalised.

    Arguments:
        data_dir: A folder that holds pairs.tsv, as the rule pairs leaves it; else a BIDS folder (one with sub-*), else
            any folder of pairs, whose images are prepared here.
        mask_strategy: "vae", "downsample", "distance" or "level".
        split: "train", "val" or "test"; None takes all.
        work: Where prepared volumes go; a temporary folder, gone with the dataset, where None.
        shares: Of people, by split, and the seed of their order; both count only where pairs are prepared here.
        grid: Settings of `volumes.prepare`; 2.5 mm and 64 x 80 x 64 voxels where not given.
        source: Settings of `sources.pairs`, such as {"masks": "{scan}_lesion.nii.gz"}.
    Attributes:
        pairs: The table of the items.
        qc: What became of every scan; None where pairs.tsv was there.
    """

    def __init__(
        self,
        data_dir: str | Path,
        mask_strategy: str = "vae",
        vae: MAISIVAEWrapper | None = None,
        *,
        split: str | None = None,
        work: str | Path | None = None,
        shares: Mapping[str, float] = SHARES,
        seed: int = 0,
        grid: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if mask_strategy not in CHANNELS:
            raise ValueError(f"mask_strategy must be one of {', '.join(CHANNELS)}; got {mask_strategy!r}")
        if split not in (None, *SHARES):
            raise ValueError(f"split must be one of {', '.join(SHARES)}, or None for all; got {split!r}")
        self.strategy, self.vae, self.qc = mask_strategy, vae, None
        self._latents: dict[int, Tensor] = {}
        data_dir = Path(data_dir)
        if (data_dir / "pairs.tsv").is_file():
            pairs = read_table(data_dir / "pairs.tsv")
        else:
            if not work:
                self._temporary = tempfile.TemporaryDirectory()
            kind = "bids" if any(data_dir.glob("sub-*")) else "pairs"
            table = find_pairs(kind, data_dir, **(source or {}))
            settings = {"spacing_mm": 2.5, "shape": (64, 80, 64), **(grid or {})}
            folder = Path(work or self._temporary.name)
            pairs, self.qc = prepare_pairs(table, folder, shares=shares, seed=seed, **settings)
        self.pairs = (pairs[pairs["split"] == split] if split else pairs).reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Tensor | str]:
        row = self.pairs.iloc[number]
        image, mask = (torch.from_numpy(array)[None] for array in read_pair(row))
        item = {"image": image, "mask": mask, "scan": row["scan"], "person": row["person"]}
        if self.vae is None:
            return item
        if number not in self._latents:
            self._latents[number] = encode(self.vae, image[None], mask[None], self.strategy)[0]
        return item | {"latent": self._latents[number]}


def read_pair(row: Mapping[str, Any]) -> tuple[NDArray, NDArray]:
    """Image in [0, 1] and mask of 0 and 1 of a row of pairs, (I, J, K) float32 each."""
    image, mask = read_volume(row["image"])[0], read_volume(row["mask"])[0]
    return np.clip(image, 0, 1), (mask > 0.5).astype(np.float32)


def write_pairs(pairs: pd.DataFrame, qc: pd.DataFrame, folder: Path) -> None:
    """Write pairs.tsv and qc.tsv.

    Raises:
        ValueError: If no pair is in training, with the reasons of those set aside.
    """
    write_table(qc, folder / "qc.tsv")
    kinds = qc.loc[qc["status"] != "accepted", "reason"].str.split(":").str[0].value_counts()
    reasons = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"
    if "train" not in pairs["split"].tolist():
        raise ValueError(
            f"no training pair among {len(qc)} scans (set aside: {reasons}); the column reason of "
            f"{folder / 'qc.tsv'} says why, scan by scan; shares of people are fcd.split"
        )
    write_table(pairs, folder / "pairs.tsv")
    logger.info("%d pairs, %d scans set aside: %s", len(pairs), len(qc) - len(pairs), reasons)
