"""Mask of the tumour's mass from the brightness of t1c: a threshold that is fitted on training images.

Used on decoded images, whose tumours have no labels, and as the simplest predictor of the volume of a tumour.
"""

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 41  # thresholds that are compared


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
