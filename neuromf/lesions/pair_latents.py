"""Joint latents of pairs, image channels first, for every mask strategy, and how well masks come back from theirs.

Training pairs are encoded as they are, and in mirrored and augmented copies, which are made before encoding: image and
mask go through the same change. An image is encoded once for all strategies. Masks of training and validation pairs
are decoded again; their Dice, at the threshold that is best on training masks, is what `masks.decide` looks at.
Test pairs have no say.

A file of latents holds x (N, C, I, J, K) float32, not normalised; scan, person, split and copy (N,), where copy is 0
for a pair as it is; and stats, JSON: mean and std of each channel over the training pairs as they are, their number n,
strategy, channels and threshold.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.core.files import atomic_write
from neuromf.data.augmentation import MIRROR, NOTHING, Change, apply, draw
from neuromf.lesions import mask_encoding
from neuromf.lesions.pairs import read_pair
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)

Versions = list[tuple[dict, int, dict[str, NDArray]]]  # row, copy, latent by strategy
EVERY = 20  # encoded pairs between two lines of progress


def encode_pairs(
    vae: MAISIVAEWrapper,
    pairs: pd.DataFrame,
    folder: Path,
    *,
    copies: int = 1,
    augmentation: Mapping[str, float] | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> pd.DataFrame:
    """Write folder/{strategy}.npz for each strategy.

    Arguments:
        pairs: Rows of pairs.tsv.
        copies: Versions of each training pair on top; the first is mirrored, others are drawn.
        augmentation: Their largest changes by name, in place of those of `augmentation.AMOUNTS`.
    Returns:
        A row per strategy and scan of training and validation: strategy, scan, split, threshold, dice.
    """
    versions, curves = [], []
    for row in pairs.to_dict("records"):
        for copy, change in enumerate(_changes(row, copies, augmentation, seed)):
            image, mask = changed_pair(row, change)
            versions.append((row, copy, _latents(vae, image, mask, precision)))
            if copy == 0 and row["split"] != "test":
                curves += _curves(vae, row, versions[-1][2], mask, precision)
            if len(versions) % EVERY == 0:
                logger.info("%d pairs and copies encoded, %d pairs in all", len(versions), len(pairs))
    table = _judged(curves)
    folder.mkdir(parents=True, exist_ok=True)
    for strategy, some in table.groupby("strategy", sort=False):
        _write(folder / f"{strategy}.npz", versions, strategy, float(some["threshold"].iloc[0]))
    return table


def _changes(row: Mapping, copies: int, augmentation: Mapping[str, float] | None, seed: int) -> list[Change]:
    """The versions in which a pair is encoded: as it is; of training also mirrored, then augmented."""
    if row["split"] != "train":
        return [NOTHING]
    drawn = [draw(seed, row["scan"], n, amounts=augmentation, mirror=True) for n in range(copies - 1)]
    return [NOTHING, *([MIRROR] if copies else []), *drawn]


def changed_pair(row: Mapping, change: Change) -> tuple[NDArray, NDArray]:
    """Image and mask (I, J, K) of a row of pairs after one and the same change; the mask keeps its brightness."""
    image, mask = read_pair(row)
    given: Any = nib.load(row["image"])
    spacing_mm = nib.affines.voxel_sizes(given.affine)
    placed = dataclasses.replace(change, gamma=1.0, intensity=1.0)
    moved = apply(mask, placed, spacing_mm=spacing_mm) > 0.5
    return apply(image, change, spacing_mm=spacing_mm), moved.astype(np.float32)


def _latents(vae: MAISIVAEWrapper, image: NDArray, mask: NDArray, precision: str) -> dict[str, NDArray]:
    x, lesion = (torch.from_numpy(array)[None, None] for array in (image, mask))
    first = mask_encoding.encode_image(vae, x, precision=precision)
    parts = {name: mask_encoding.encode_mask(vae, lesion, name, precision=precision) for name in mask_encoding.CHANNELS}
    return {name: torch.cat([first, part], 1)[0].numpy() for name, part in parts.items()}


def _curves(vae: MAISIVAEWrapper, row: Mapping, latent: Mapping[str, NDArray], mask: NDArray, precision: str) -> list:
    """What comes back of one mask, by strategy: its Dice at each threshold."""
    found = []
    for name, joint in latent.items():
        part = torch.from_numpy(joint[None, -mask_encoding.CHANNELS[name] :])
        soft = mask_encoding.decode_mask(vae, part, name, precision=precision)[0, 0].numpy()
        curve = mask_encoding.dice_by_threshold(soft, mask)
        found.append({"strategy": name, "scan": row["scan"], "split": row["split"], "curve": curve})
    return found


def _judged(curves: Sequence[dict]) -> pd.DataFrame:
    """Rows with Dice at the threshold that is best on the training masks of the strategy."""
    if not any(row["split"] == "train" for row in curves):
        raise ValueError(
            "no training pair, so no threshold of masks can be chosen; see fcd.split and results/fcd/qc.tsv"
        )
    rows = []
    for name in mask_encoding.CHANNELS:
        mine = [row for row in curves if row["strategy"] == name]
        threshold = mask_encoding.choose_threshold([row["curve"] for row in mine if row["split"] == "train"])
        at = mask_encoding.THRESHOLDS.tolist().index(threshold)
        rows += [{k: row[k] for k in ("strategy", "scan", "split")}
                 | {"threshold": threshold, "dice": round(float(row["curve"][at]), 6)} for row in mine]  # fmt: skip
    return pd.DataFrame(rows)


def _write(path: Path, versions: Versions, strategy: str, threshold: float) -> None:
    x = np.stack([latent[strategy] for _, _, latent in versions]).astype(np.float32)
    told = {name: np.array([row[name] for row, _, _ in versions]) for name in ("scan", "person", "split")}
    copy = np.array([copy for _, copy, _ in versions])
    stats = channel_statistics(x[(told["split"] == "train") & (copy == 0)])
    stats |= {"strategy": strategy, "threshold": threshold, "channels": x.shape[1]}
    with atomic_write(path) as part, open(part, "wb") as file:
        about = {**told, "copy": copy, "stats": np.array(json.dumps(stats))}
        np.savez(file, x=x, **about)  # type: ignore[arg-type]  # none is called allow_pickle


def channel_statistics(x: NDArray) -> dict:
    """Mean and standard deviation of each channel of latents (N, C, I, J, K), as `latents.normalise` takes them."""
    flat = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64)
    return {"n": len(x), "mean": flat.mean(1).tolist(), "std": flat.std(1).tolist()}


def strategy(table: pd.DataFrame, *, chosen: str, bound: float) -> dict:
    """The decision that later rules read, from the table of `encode_pairs`.

    Arguments:
        chosen: "auto", or the strategy that the study fixes; the numbers are the same.
        bound: Of the mean Dice of vae, above which it is taken.
    Returns:
        strategy, channels (of image and mask together), threshold, dice and thresholds by strategy, bound, chosen, n.
    """
    groups = table.groupby("strategy", sort=False)
    dice = {name: round(float(value), 6) for name, value in groups["dice"].mean().items()}
    thresholds = {name: float(value) for name, value in groups["threshold"].first().items()}
    name = mask_encoding.decide(dice, bound) if chosen == "auto" else chosen
    channels = mask_encoding.LATENT_CHANNELS + mask_encoding.CHANNELS[name]
    decision = {"strategy": name, "channels": channels, "threshold": thresholds[name], "dice": dice}
    return decision | {"thresholds": thresholds, "bound": bound, "chosen": chosen, "n": int(table["scan"].nunique())}
