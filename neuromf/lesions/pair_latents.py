"""Latents of image-mask pairs for every mask encoding, and the Dice of masks after encode-decode.

Training pairs are encoded unchanged, mirrored and augmented. Image and mask undergo the same change before encoding.
The masks of training and validation pairs are also decoded. Their Dice, at the threshold that is best on training
masks, decides between the encodings (`mask_encoding.choose_mask_encoding`). Test pairs take no part in the choice.

A file of latents, {encoding}.npz, holds x (N, C, I, J, K), float32, not normalised, image channels first; scan,
participant, split and version (N,), where version 0 is the unchanged pair; and stats as JSON: mean and std of each
channel over unchanged training pairs, their number n, mask_encoding, channels and threshold.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.core.files import atomic_write
from neuromf.core.hardware import default_device
from neuromf.data.augmentation import IDENTITY, MIRROR, Change, apply_change, draw_change
from neuromf.data.participants import read_table
from neuromf.lesions.mask_encoding import (
    CHANNELS,
    THRESHOLDS,
    choose_threshold,
    decode_mask,
    dice_by_threshold,
    encode_mask,
)
from neuromf.lesions.pairs import read_pair
from neuromf.vae.maisi import MAISIVAEWrapper, encode_safely
from neuromf.vae.weights import load

logger = logging.getLogger(__name__)

Latents = dict[str, NDArray]  # by mask encoding
LOG_EVERY = 20  # encoded pairs between two log lines


def encode_pairs(
    *,
    pairs: Path,
    weights: Path,
    out: Path,
    table: Path,
    n_augmented: int = 1,
    augmentation: Mapping[str, float] | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> pd.DataFrame:
    """Write out/{encoding}.npz for each mask encoding, and the table of Dice as CSV.

    Arguments:
        pairs: File pairs.tsv of `pairs.prepare_pairs`.
        weights: Autoencoder weights.
        out: Folder of latents.
        table: CSV file of the returned table.
        n_augmented: Augmented versions of each training pair; the first is mirrored, others are drawn at random.
        augmentation: Largest changes by name, see `augmentation.draw_change`.
        precision: Precision of the autoencoder: float32 or bf16.
        seed: Seed of the augmentation.

    Returns:
        One row per encoding and scan of training and validation: mask_encoding, scan, split, threshold, dice.
    """
    vae = load(weights).to(default_device())
    versions, latents = [], []
    curves: list[dict[str, Any]] = []
    for row in read_table(pairs).to_dict("records"):
        for version, change in enumerate(pair_changes(row, n_augmented, augmentation, seed)):
            image, mask = read_changed_pair(row, change)
            latents.append(encode_all(vae, image, mask, precision))
            versions.append({name: row[name] for name in ("scan", "participant", "split")} | {"version": version})
            if version == 0 and row["split"] != "test":
                curves += dice_curves(vae, row, latents[-1], mask, precision)
            if len(versions) % LOG_EVERY == 0:
                logger.info("%d versions of pairs encoded", len(versions))
    dices = pd.concat(dice_at_threshold(curves, encoding) for encoding in CHANNELS)
    out.mkdir(parents=True, exist_ok=True)
    thresholds = dices.groupby("mask_encoding")["threshold"].first()
    for encoding in CHANNELS:
        x = np.stack([latent[encoding] for latent in latents]).astype(np.float32)
        write_latents(out / f"{encoding}.npz", x, pd.DataFrame(versions), encoding, float(thresholds[encoding]))
    with atomic_write(table) as part:
        dices.to_csv(part, index=False, lineterminator="\n")
    return dices


def pair_changes(row: Mapping, n_augmented: int, augmentation: Mapping[str, float] | None, seed: int) -> list[Change]:
    """Changes in which a pair is encoded: none; for training pairs also mirroring and random augmentation."""
    if row["split"] != "train":
        return [IDENTITY]
    drawn = [draw_change(seed, row["scan"], k, amounts=augmentation, mirror=True) for k in range(n_augmented - 1)]
    return [IDENTITY, *([MIRROR] if n_augmented else []), *drawn]


def read_changed_pair(row: Mapping, change: Change) -> tuple[NDArray, NDArray]:
    """Image and mask (I, J, K) of a row of pairs after the same change; intensities change in the image only."""
    image, mask = read_pair(row)
    stored: Any = nib.load(row["image"])
    spacing_mm = nib.affines.voxel_sizes(stored.affine)
    geometric = dataclasses.replace(change, gamma=1.0, intensity=1.0)
    changed_mask = apply_change(mask, geometric, spacing_mm=spacing_mm) > 0.5
    return apply_change(image, change, spacing_mm=spacing_mm), changed_mask.astype(np.float32)


def encode_all(vae: MAISIVAEWrapper, image: NDArray, mask: NDArray, precision: str) -> Latents:
    """Pair latents (C, I/4, J/4, K/4) by mask encoding. The image is encoded once."""
    x, lesion = (torch.from_numpy(array)[None, None] for array in (image, mask))
    first = encode_safely(vae, x, precision=precision)[0]
    parts = {name: encode_mask(vae, lesion, name, precision=precision) for name in CHANNELS}
    return {name: torch.cat([first, part], 1)[0].numpy() for name, part in parts.items()}


def dice_curves(
    vae: MAISIVAEWrapper, row: Mapping, latents: Latents, mask: NDArray, precision: str
) -> Iterator[dict[str, Any]]:
    """For each encoding, the Dice of a mask and its decoded latent at each of `THRESHOLDS`."""
    for name, latent in latents.items():
        part = torch.from_numpy(latent[None, -CHANNELS[name] :])
        soft = decode_mask(vae, part, name, precision=precision)[0, 0].numpy()
        curve = dice_by_threshold(soft, mask)
        yield {"mask_encoding": name, "scan": row["scan"], "split": row["split"], "curve": curve}


def dice_at_threshold(curves: list[dict[str, Any]], encoding: str) -> pd.DataFrame:
    """Rows of an encoding with the Dice at the threshold that is best on training masks."""
    rows = [row for row in curves if row["mask_encoding"] == encoding]
    training = [row["curve"] for row in rows if row["split"] == "train"]
    if not training:
        raise ValueError(
            "no training pair, so no mask threshold can be chosen; see lesions.split and results/fcd/qc.tsv"
        )
    threshold = choose_threshold(training)
    index = THRESHOLDS.tolist().index(threshold)
    dices = [round(float(row["curve"][index]), 6) for row in rows]
    return pd.DataFrame(rows).drop(columns="curve").assign(threshold=threshold, dice=dices)


def write_latents(path: Path, x: NDArray, versions: pd.DataFrame, encoding: str, threshold: float) -> None:
    """Write the latents of an encoding with their statistics over unchanged training pairs."""
    train = x[(versions["split"] == "train") & (versions["version"] == 0)]
    flat = np.moveaxis(train, 1, 0).reshape(x.shape[1], -1).astype(np.float64)
    stats = {"n": len(train), "mean": flat.mean(1).tolist(), "std": flat.std(1).tolist()}
    stats |= {"mask_encoding": encoding, "threshold": threshold, "channels": x.shape[1]}
    columns = {name: np.array(versions[name].tolist()) for name in versions}
    with atomic_write(path) as part, open(part, "wb") as file:
        np.savez(file, x=x, **columns, stats=np.array(json.dumps(stats)))  # type: ignore[arg-type]  # no column is called allow_pickle
