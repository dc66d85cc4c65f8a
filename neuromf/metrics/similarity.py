"""Similarity of volumes voxel by voxel: PSNR, SSIM and multi-scale SSIM.

Volumes have shape (N, I, J, K), intensities in [0, 1] and so a data range of 1. SSIM is MONAI's,
in 3D, averaged over the windows that lie inside the volume, background included: a large black
border pulls every score towards 1, so compare scores only at one shape and crop.

References:
    Image quality assessment: from error visibility to structural similarity (Wang et al., 2004)
    Multiscale structural similarity for image quality assessment (Wang et al., 2003)
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from monai.metrics.metric import CumulativeIterationMetric
from numpy.typing import ArrayLike, NDArray

from neuromf import parallel
from neuromf.metrics.spectral import as_volumes

WINDOW = 11  # voxels, Gaussian of 1.5 voxels standard deviation (Wang et al., 2004)
MS_WINDOW = 7  # voxels, the same Gaussian cut shorter, so that sides of 28 voxels suffice
# The first three of the five weights of Wang et al. (2003), divided by their sum.
MS_WEIGHTS = tuple(w / 0.6305 for w in (0.0448, 0.2856, 0.3001))
MS_SIDE = MS_WINDOW * 2 ** (len(MS_WEIGHTS) - 1)
SAME: dict[str, Any] = {"data_range": 1.0, "kernel_sigma": 1.5, "reduction": "none"}
SSIM = functools.partial(SSIMMetric, 3, win_size=WINDOW, **SAME)
MS_SSIM = functools.partial(MultiScaleSSIMMetric, 3, kernel_size=MS_WINDOW, weights=MS_WEIGHTS, **SAME)


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
    return each(SSIM, a, b)


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
    return each(MS_SSIM, a, b)


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
    pairs = zip(first[drawn], second[drawn], strict=True)
    return float(each(MS_SSIM, *zip(*[(volumes[i], volumes[j]) for i, j in pairs], strict=True)).mean())


def each(metric: Callable[[], CumulativeIterationMetric], a: Iterable[NDArray], b: Iterable[NDArray]) -> NDArray:
    """A MONAI metric of every pair (I, J, K), float64, a pair at a time on each core, so that their windows fit."""

    def of(x: NDArray, y: NDArray) -> float:
        pair = (torch.as_tensor(v)[None, None].float() for v in (x, y))
        return float(metric()(*pair))  # type: ignore[arg-type]  # one value

    return np.array(parallel.each(of, a, b))
