"""Mask of the tumour's mass from the brightness of t1c: a threshold that is fitted on training images.

Used on decoded images, whose tumours have no labels, and as the simplest predictor of the volume of a tumour.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuromf.data.multimodal import MASS, SEG
from neuromf.growth.latents import split_loader
from neuromf.growth.module import VAELitModule

CANDIDATES = 41  # thresholds that are compared
CHANNEL = "t1c"
BATCH = 32  # latents decoded at a time


def dice(one: NDArray, other: NDArray) -> NDArray:
    """Dice coefficient of masks (N, ...), (N,); 1 if both are empty."""
    one, other = (mask.reshape(len(mask), -1) for mask in (one, other))
    total = one.sum(1) + other.sum(1)
    return np.where(total > 0, 2 * (one & other).sum(1) / np.maximum(total, 1), 1.0)


def fit_threshold(images: NDArray, masks: NDArray) -> float:
    """Threshold with the largest mean Dice of images > threshold and masks, both (N, I, J, K)."""
    candidates = np.linspace(np.median(images), np.quantile(images, 0.9999), CANDIDATES)
    return float(candidates[np.argmax([dice(images > one, masks).mean() for one in candidates])])


def count_mm3(images: NDArray, threshold: float, voxel_mm3: float) -> NDArray:
    """Volume of the voxels above the threshold, (N,)."""
    return (images > threshold).reshape(len(images), -1).sum(1) * voxel_mm3


# --- runs --------------------------------------------------------------------------------------------


def load_images(run: Path, split: str, config: Mapping[str, Any]) -> tuple[NDArray, NDArray, list[str]]:
    """t1c images and masks of the mass of a split, (N, I, J, K), and ids."""
    channel = config["data"]["modalities"].index(CHANNEL)
    batches = list(split_loader(run, split))
    images = torch.cat([batch["image"][:, channel] for batch in batches]).numpy()
    labels = torch.cat([batch[SEG][:, 0] for batch in batches]).numpy()
    return images, np.isin(labels, MASS), [name for batch in batches for name in batch["id"]]


def t1c_decoder(module: VAELitModule, config: Mapping[str, Any]) -> Callable[[NDArray], NDArray]:
    """Function from latents (N, d) to decoded t1c (N, I, J, K)."""
    channel = config["data"]["modalities"].index(CHANNEL)

    @torch.no_grad()
    def decode(z: NDArray) -> NDArray:
        parts = torch.as_tensor(z, dtype=torch.float32).split(BATCH)
        return torch.cat([module.model.decode(one)[:, channel].float() for one in parts]).numpy()

    return decode
