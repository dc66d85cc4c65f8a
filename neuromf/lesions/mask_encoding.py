"""Four encodings of lesion masks as latents, and the choice between them by the Dice of encode-decode.

    vae         mask of 0 and 1 through the autoencoder: 4 channels
    distance    signed distance to the border, clipped and scaled to [0, 1], through the autoencoder: 4 channels
    downsample  value of the voxel nearest to each latent position: 1 channel
    level       signed distance, averaged over each latent position, decoded by cubic splines: 1 channel

Masks have shape (B, 1, I, J, K) with values 0 and 1, latents (B, C, I/4, J/4, K/4). A latent decodes to a soft mask in
[0, 1]. Voxels above a threshold, which is chosen on training masks, are lesion.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from neuromf.core.files import write_json
from neuromf.metrics.lesions import dice
from neuromf.vae.maisi import DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper, decode_safely, encode_safely

logger = logging.getLogger(__name__)

CHANNELS = {"vae": LATENT_CHANNELS, "distance": LATENT_CHANNELS, "downsample": 1, "level": 1}  # of a mask, by encoding
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.025), 3)
CLIP_VOXELS = {"distance": 3.0, "level": 6.0}  # distances with the highest Dice of encode-decode, of 1 to 8


def encode(vae: MAISIVAEWrapper, image: Tensor, mask: Tensor, encoding: str) -> Tensor:
    """Pair latents (B, 4 + k, I/4, J/4, K/4), image channels first, of images in [0, 1] and their masks."""
    if image.shape != mask.shape:
        raise ValueError(f"image and mask must have one shape; got {tuple(image.shape)} and {tuple(mask.shape)}")
    return torch.cat([encode_safely(vae, image)[0], encode_mask(vae, mask, encoding)], dim=1)


def encode_mask(vae: MAISIVAEWrapper, mask: Tensor, encoding: str, *, precision: str = "float32") -> Tensor:
    """Latents (B, k, I/4, J/4, K/4) of masks (B, 1, I, J, K), where k is `CHANNELS[encoding]`."""
    check_encoding(encoding)
    if encoding == "downsample":
        middle = slice(DOWNSAMPLING // 2, None, DOWNSAMPLING)
        return mask.float()[..., middle, middle, middle].contiguous()
    if encoding == "level":
        return F.avg_pool3d(signed_distance(mask, CLIP_VOXELS["level"]), DOWNSAMPLING)
    volume = mask.float() if encoding == "vae" else signed_distance(mask, CLIP_VOXELS["distance"])
    return encode_safely(vae, volume, precision=precision)[0]


def decode(vae: MAISIVAEWrapper, latent: Tensor, encoding: str, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images in [0, 1], binary masks and soft masks, each (B, 1, I, J, K), of denormalised pair latents."""
    check_encoding(encoding)
    if latent.shape[1] != (expected := LATENT_CHANNELS + CHANNELS[encoding]):
        raise ValueError(f"pair latents of {encoding} have {expected} channels; got shape {tuple(latent.shape)}")
    image = decode_safely(vae, latent[:, :LATENT_CHANNELS]).clamp(0, 1)
    soft = decode_mask(vae, latent[:, LATENT_CHANNELS:], encoding)
    return image, (soft > threshold).float(), soft


def decode_mask(vae: MAISIVAEWrapper, latent: Tensor, encoding: str, *, precision: str = "float32") -> Tensor:
    """Soft masks (B, 1, I, J, K) in [0, 1] of mask latents (B, k, I/4, J/4, K/4)."""
    check_encoding(encoding)
    if encoding == "downsample":
        return F.interpolate(latent.float(), scale_factor=DOWNSAMPLING, mode="nearest-exact").clamp(0, 1)
    if encoding == "level":
        fine = [ndimage.zoom(x, DOWNSAMPLING, order=3, mode="nearest", grid_mode=True) for x in latent[:, 0].numpy()]
        return torch.from_numpy(np.stack(fine))[:, None].float().clamp(0, 1)
    return decode_safely(vae, latent, precision=precision).clamp(0, 1)


def check_encoding(encoding: str) -> None:
    """Raise a ValueError unless the encoding exists."""
    if encoding not in CHANNELS:
        raise ValueError(f"mask_encoding must be one of {', '.join(CHANNELS)}; got {encoding!r}")


def signed_distance(mask: Tensor, clip_voxels: float) -> Tensor:
    """1/2 + d / (2 clip) in [0, 1], where d is the distance to the border in voxels, positive inside the mask."""
    distances = [_signed_distance(one) for one in mask.flatten(0, 1).numpy() > 0.5]
    scaled = torch.from_numpy(np.stack(distances)).view(mask.shape) / (2 * clip_voxels)
    return (0.5 + scaled).clamp(0, 1).float()


def _signed_distance(mask: NDArray) -> NDArray:
    """Distance in voxels to the border, which lies half a voxel from the nearest voxel centres."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf if mask.all() else -np.inf)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)


def dice_by_threshold(soft: ArrayLike, mask: ArrayLike) -> NDArray:
    """Dice of a mask with its soft mask above each of `THRESHOLDS`."""
    soft, mask = np.asarray(soft), np.asarray(mask) > 0.5
    return np.array([dice(mask, soft > threshold) for threshold in THRESHOLDS])


def choose_threshold(curves: ArrayLike) -> float:
    """Threshold of the highest mean Dice over curves (n, thresholds); the middle one of equally good thresholds."""
    curves = np.asarray(curves, float)
    if curves.ndim != 2 or curves.shape[1] != len(THRESHOLDS) or not len(curves):
        raise ValueError(f"at least one curve of {len(THRESHOLDS)} thresholds is needed; got shape {curves.shape}")
    mean = curves.mean(0)
    best = np.flatnonzero(mean >= mean.max() - 1e-9)
    return float(THRESHOLDS[best[len(best) // 2]])


def choose_mask_encoding(*, table: Path, mask_encoding: str, min_vae_dice: float, out: Path) -> dict:
    """Choose the mask encoding of a study and write the decision as JSON.

    Arguments:
        table: CSV table of `pair_latents.encode_pairs`.
        mask_encoding: Encoding of the study, or auto for the choice of `best_encoding`.
        min_vae_dice: Mean Dice above which auto may choose vae.
        out: JSON file.

    Returns:
        mask_encoding, channels (image and mask), threshold, dice and thresholds by encoding, min_vae_dice, chosen (the
        argument mask_encoding) and n, the number of scans.
    """
    rows = pd.read_csv(table)
    groups = rows.groupby("mask_encoding", sort=False)
    dices = {name: round(float(value), 6) for name, value in groups["dice"].mean().items()}
    thresholds = {name: float(value) for name, value in groups["threshold"].first().items()}
    name = best_encoding(dices, min_vae_dice) if mask_encoding == "auto" else mask_encoding
    decision = {"mask_encoding": name, "channels": LATENT_CHANNELS + CHANNELS[name], "threshold": thresholds[name]}
    decision |= {"dice": dices, "thresholds": thresholds, "min_vae_dice": min_vae_dice, "chosen": mask_encoding}
    decision |= {"n": int(rows["scan"].nunique())}
    write_json(out, decision, sort_keys=False)
    logger.info("mask encoding %s; Dice of encode-decode by encoding: %s", name, dices)
    return decision


def best_encoding(dices: Mapping[str, float], min_vae_dice: float) -> str:
    """vae if its Dice exceeds `min_vae_dice`, else downsample; distance or level if its Dice exceeds that of both."""
    if missing := CHANNELS.keys() - dices.keys():
        raise ValueError(f"the Dice of {', '.join(CHANNELS)} is needed; {', '.join(sorted(missing))} missing")
    best = max(("distance", "level"), key=lambda name: dices[name])
    if dices[best] > max(dices["vae"], dices["downsample"]):
        return best
    return "vae" if dices["vae"] > min_vae_dice else "downsample"
