"""Lesion masks as latents, four ways, and which of them a study takes: decided by what comes back.

    vae         the mask as a volume of 0 and 1 through the autoencoder: 4 channels
    distance    its signed distance, clipped and scaled to [0, 1], through the autoencoder: 4 channels
    downsample  the voxel nearest to each latent position: 1 channel
    level       the signed distance, averaged over each latent position, back by cubic splines: 1 channel

Masks are (B, 1, I, J, K) with 0 and 1, latents (B, C, I/4, J/4, K/4). A soft mask, in [0, 1], is what a latent decodes
to; above the strategy's threshold, chosen on training masks, it is lesion.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from neuromf.vae.maisi import DOWNSAMPLING, LATENT_CHANNELS, MAISIVAEWrapper, evaluate

CHANNELS = {"vae": LATENT_CHANNELS, "distance": LATENT_CHANNELS, "downsample": 1, "level": 1}  # of a mask, by strategy
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.025), 3)
CLIP_VOXELS = {"distance": 3.0, "level": 6.0}  # farther is not told apart; of 1 to 8 these come back best


def encode(vae: MAISIVAEWrapper, image: Tensor, mask: Tensor, strategy: str, *, precision: str = "float32") -> Tensor:
    """Latents (B, 4 + k, I/4, J/4, K/4) of images (B, 1, I, J, K) in [0, 1] and their masks, image channels first."""
    if image.shape != mask.shape:
        raise ValueError(f"image and mask must have one shape; got {tuple(image.shape)} and {tuple(mask.shape)}")
    parts = [encode_image(vae, image, precision=precision), encode_mask(vae, mask, strategy, precision=precision)]
    return torch.cat(parts, dim=1)


def encode_image(vae: MAISIVAEWrapper, image: Tensor, *, precision: str = "float32") -> Tensor:
    """Posterior means (B, 4, I/4, J/4, K/4) of images (B, 1, I, J, K) in [0, 1]."""
    return evaluate(vae, "encode", image, precision=precision)[0]


def encode_mask(vae: MAISIVAEWrapper, mask: Tensor, strategy: str, *, precision: str = "float32") -> Tensor:
    """Latents (B, k, I/4, J/4, K/4) of masks (B, 1, I, J, K), k being `CHANNELS` of the strategy."""
    _check(strategy)
    if strategy == "downsample":
        return mask.float()[..., _near(mask, 2), :, :][..., _near(mask, 3), :][..., _near(mask, 4)].contiguous()
    if strategy == "level":
        return F.avg_pool3d(signed_distance(mask, CLIP_VOXELS["level"]), DOWNSAMPLING)
    volume = mask.float() if strategy == "vae" else signed_distance(mask, CLIP_VOXELS["distance"])
    return evaluate(vae, "encode", volume, precision=precision)[0]


def decode(
    vae: MAISIVAEWrapper, latent: Tensor, strategy: str, threshold: float, *, precision: str = "float32"
) -> tuple[Tensor, Tensor, Tensor]:
    """Images in [0, 1], masks of 0 and 1, and soft masks, each (B, 1, I, J, K), of denormalised joint latents."""
    _check(strategy)
    if latent.shape[1] != (wanted := LATENT_CHANNELS + CHANNELS[strategy]):
        raise ValueError(f"joint latents of {strategy} have {wanted} channels; got shape {tuple(latent.shape)}")
    image = evaluate(vae, "decode", latent[:, :LATENT_CHANNELS], precision=precision)[0].clamp(0, 1)
    soft = decode_mask(vae, latent[:, LATENT_CHANNELS:], strategy, precision=precision)
    return image, (soft > threshold).float(), soft


def decode_mask(vae: MAISIVAEWrapper, latent: Tensor, strategy: str, *, precision: str = "float32") -> Tensor:
    """Soft masks (B, 1, I, J, K) in [0, 1] of mask latents (B, k, I/4, J/4, K/4)."""
    _check(strategy)
    if strategy == "downsample":
        return F.interpolate(latent.float(), scale_factor=DOWNSAMPLING, mode="nearest-exact").clamp(0, 1)
    if strategy == "level":
        fine = [
            ndimage.zoom(one, DOWNSAMPLING, order=3, mode="nearest", grid_mode=True) for one in latent[:, 0].numpy()
        ]
        return torch.from_numpy(np.stack(fine))[:, None].float().clamp(0, 1)
    return evaluate(vae, "decode", latent, precision=precision)[0].clamp(0, 1)


def _near(mask: Tensor, axis: int) -> Tensor:
    """Voxels nearest to the middle of each latent position along an axis."""
    return torch.arange(DOWNSAMPLING // 2, mask.shape[axis], DOWNSAMPLING)


def _check(strategy: str) -> None:
    if strategy not in CHANNELS:
        raise ValueError(f"mask strategy must be one of {', '.join(CHANNELS)}; got {strategy!r}")


def signed_distance(mask: Tensor, clip_voxels: float) -> Tensor:
    """Distance d to the border of masks (B, 1, I, J, K) in voxels, positive inside, as 1/2 + d / (2 clip) in [0, 1]."""
    fields = [_distance(one) for one in mask.flatten(0, 1).numpy() > 0.5]
    scaled = torch.from_numpy(np.stack(fields)).view(mask.shape) / (2 * clip_voxels)
    return (0.5 + scaled).clamp(0, 1).float()


def _distance(mask: NDArray) -> NDArray:
    """Distance in voxels to the border, half a voxel from the middle of those beside it; inside above 0."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf if mask.all() else -np.inf)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)


# --- what comes back ---------------------------------------------------------------------------------


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Overlap of two masks of one shape, 2 |a and b| / (|a| + |b|); 1 if both are empty."""
    a, b = np.asarray(a) > 0.5, np.asarray(b) > 0.5
    if a.shape != b.shape:
        raise ValueError(f"masks must have one shape; got {a.shape} and {b.shape}")
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def dice_by_threshold(soft: ArrayLike, mask: ArrayLike) -> NDArray:
    """Dice of a soft mask above each of `THRESHOLDS` with the mask it came from."""
    soft = np.asarray(soft)
    return np.array([dice(soft > threshold, mask) for threshold in THRESHOLDS])


def choose_threshold(curves: ArrayLike) -> float:
    """The threshold of the highest mean Dice over curves (n, thresholds); of equally good ones the middle."""
    curves = np.asarray(curves, float)
    if curves.ndim != 2 or curves.shape[1] != len(THRESHOLDS) or not len(curves):
        raise ValueError(f"wanted at least one curve of {len(THRESHOLDS)} thresholds; got shape {curves.shape}")
    mean = curves.mean(0)
    best = np.flatnonzero(mean >= mean.max() - 1e-9)
    return float(THRESHOLDS[best[len(best) // 2]])


def decide(dices: Mapping[str, float], bound: float) -> str:
    """The strategy to take: vae if its Dice is above the bound, else downsample; another where it beats both."""
    if absent := CHANNELS.keys() - dices.keys():
        raise ValueError(f"wanted the Dice of {', '.join(CHANNELS)}; {', '.join(sorted(absent))} missing")
    third = max(("distance", "level"), key=lambda name: dices[name])
    if dices[third] > max(dices["vae"], dices["downsample"]):
        return third
    return "vae" if dices["vae"] > bound else "downsample"
