"""Similarity of volumes voxel by voxel: PSNR, SSIM and multi-scale SSIM.

Volumes have shape (N, I, J, K), intensities in [0, 1] and so a data range of 1. SSIM is MONAI's,
in 3D, averaged over the windows that lie inside the volume, background included: a large black
border pulls every score towards 1, so compare scores only at one shape and crop.

References:
    Image quality assessment: from error visibility to structural similarity (Wang et al., 2004)
    Multiscale structural similarity for image quality assessment (Wang et al., 2003)
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from neuromf.core import parallel
from neuromf.metrics.images.spectral import as_volumes

SIGMA = 1.5  # voxels, standard deviation of the Gaussian in a window (Wang et al., 2004)
WINDOW = 11  # voxels
MS_WINDOW = 7  # voxels, the same Gaussian cut shorter, so that sides of 28 voxels suffice
# The first three of the five weights of Wang et al. (2003), divided by their sum.
MS_WEIGHTS = tuple(w / 0.6305 for w in (0.0448, 0.2856, 0.3001))
MS_SIDE = MS_WINDOW * 2 ** (len(MS_WEIGHTS) - 1)
AT_ONCE = 4  # pairs, as channels of one convolution, which takes as long as that of a single pair


def as_pair(a: ArrayLike, b: ArrayLike, side: int = 1) -> tuple[NDArray, NDArray]:
    """Two sets of volumes of one shape, no side shorter than the given number of voxels."""
    a, b = as_volumes(a, "a"), as_volumes(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, volume by volume; got {a.shape} and {b.shape}")
    if min(a.shape[1:]) < side:
        raise ValueError(
            f"volumes must measure at least {side} voxels along each axis; got {a.shape[1:]}: pad them with zeros"
        )
    return a, b


def psnr(a: ArrayLike, b: ArrayLike) -> NDArray:
    """Peak signal-to-noise ratio in dB for a peak of 1, infinite where the volumes are equal.

    Arguments:
        a: Volumes in [0, 1], with shape (N, I, J, K).
        b: Volumes to compare them with, one to one, of the same shape.

    Returns:
        Ratios with shape (N,).
    """
    a, b = as_pair(a, b)
    errors = np.array([np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b, strict=True)])
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def ssim(a: ArrayLike, b: ArrayLike) -> NDArray:
    """Structural similarity in windows of 11 voxels, at most 1, and 1 for equal volumes.

    Arguments:
        a: Volumes in [0, 1], with shape (N, I, J, K), sides of at least 11 voxels.
        b: Volumes to compare them with, one to one, of the same shape.

    Returns:
        Mean similarity of each pair, with shape (N,).
    """
    a, b = as_pair(a, b, side=WINDOW)
    return _each(_ssim, list(a), list(b))


def ms_ssim(a: ArrayLike, b: ArrayLike) -> NDArray:
    """Structural similarity over three scales, in [0, 1], and 1 for equal volumes.

    Windows of 7 voxels at full, half and quarter resolution, weighted 0.071, 0.453 and 0.476.
    Published scores of five scales or other windows are on another scale than these.

    Arguments:
        a: Volumes in [0, 1], with shape (N, I, J, K), sides of at least 28 voxels.
        b: Volumes to compare them with, one to one, of the same shape.

    Returns:
        Similarity of each pair, with shape (N,).
    """
    a, b = as_pair(a, b, side=MS_SIDE)
    return _each(_ms_ssim, list(a), list(b))


def pair_ms_ssim(volumes: ArrayLike, n_pairs: int = 100, seed: int = 0) -> float:
    """Mean multi-scale SSIM between different volumes of one set: high when they all look alike.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K), N >= 2.
        n_pairs: Pairs to draw without repetition; all of them are used when there are fewer.
        seed: Seed of the draw.
    """
    volumes, _ = as_pair(volumes, volumes, side=MS_SIDE)
    if len(volumes) < 2 or n_pairs < 1:
        raise ValueError(
            f"diversity needs at least 2 volumes and 1 pair; got {len(volumes)} volumes and n_pairs={n_pairs}"
        )
    first, second = np.triu_indices(len(volumes), k=1)
    drawn = np.random.default_rng(seed).permutation(len(first))[:n_pairs]
    pairs = ([volumes[k] for k in side[drawn]] for side in (first, second))
    return float(_each(_ms_ssim, *pairs).mean())


def windows(x: Tensor, y: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """SSIM, and its terms of contrast and structure alone, of each window inside pairs (1, N, I, J, K)."""
    return compute_ssim_and_cs(x, y, 3, kernel_size=(side,) * 3, kernel_sigma=(SIGMA,) * 3)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM (N,) of pairs (1, N, I, J, K)."""
    return windows(x, y, WINDOW)[0].mean((0, 2, 3, 4))


def _ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale SSIM (N,) of pairs (1, N, I, J, K): contrast at each scale but the last, SSIM there, by weights."""
    found = []
    for _ in MS_WEIGHTS:
        whole, contrast = windows(x, y, MS_WINDOW)
        found.append(contrast.mean((0, 2, 3, 4)))
        x, y = F.avg_pool3d(x, 2), F.avg_pool3d(y, 2)
    found[-1] = whole.mean((0, 2, 3, 4))
    return torch.stack([each.relu() ** weight for each, weight in zip(found, MS_WEIGHTS, strict=True)]).prod(0)


def _each(function: Callable[[Tensor, Tensor], Tensor], a: Sequence[NDArray], b: Sequence[NDArray]) -> NDArray:
    """A function of every pair of volumes (I, J, K), float64; AT_ONCE of them on each core."""

    def of(start: int) -> Tensor:
        pairs = (np.stack(side[start : start + AT_ONCE]).astype(np.float32) for side in (a, b))
        return function(*(torch.from_numpy(side)[None] for side in pairs))

    return torch.cat(parallel.map_in_threads(of, range(0, len(a), AT_ONCE))).double().numpy()
