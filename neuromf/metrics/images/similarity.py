"""Similarity of volumes: PSNR, SSIM and multi-scale SSIM.

Volumes have shape (N, I, J, K), values in [0, 1] and a data range of 1. SSIM is that of MONAI in 3D, averaged over all
windows inside the volume, background included: background raises SSIM, so compare values of one shape and crop only.

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

SIGMA = 1.5  # standard deviation of the Gaussian window in voxels (Wang et al., 2004)
WINDOW = 11  # voxels
MS_WINDOW = 7  # voxels; truncates the Gaussian so that sides of 28 voxels suffice
# The first three of the five weights of Wang et al. (2003), divided by their sum.
MS_WEIGHTS = tuple(w / 0.6305 for w in (0.0448, 0.2856, 0.3001))
MS_SIDE = MS_WINDOW * 2 ** (len(MS_WEIGHTS) - 1)
AT_ONCE = 4  # pairs per convolution, as channels: as fast as one pair


def check_pair(a: ArrayLike, b: ArrayLike, side: int = 1) -> tuple[NDArray, NDArray]:
    """Two arrays of volumes of the same shape, with sides of at least `side` voxels."""
    a, b = as_volumes(a, "a"), as_volumes(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape; got {a.shape} and {b.shape}")
    if min(a.shape[1:]) < side:
        raise ValueError(
            f"volumes must have at least {side} voxels along each axis; got {a.shape[1:]}: pad them with zeros"
        )
    return a, b


def psnr(a: ArrayLike, b: ArrayLike) -> NDArray:
    """Peak signal-to-noise ratio in dB for a peak of 1, infinite for equal volumes.

    Arguments:
        a: Volumes in [0, 1], shape (N, I, J, K).
        b: Volumes of the same shape, paired with those of a.

    Returns:
        Ratios, shape (N,).
    """
    a, b = check_pair(a, b)
    errors = np.array([np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b, strict=True)])
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def ssim(a: ArrayLike, b: ArrayLike) -> NDArray:
    """Structural similarity in windows of 11 voxels, at most 1 and 1 for equal volumes.

    Arguments:
        a: Volumes in [0, 1], shape (N, I, J, K), sides of at least 11 voxels.
        b: Volumes of the same shape, paired with those of a.

    Returns:
        Mean similarity of each pair, shape (N,).
    """
    a, b = check_pair(a, b, side=WINDOW)
    return _each(_ssim, list(a), list(b))


def ms_ssim(a: ArrayLike, b: ArrayLike) -> NDArray:
    """Structural similarity over three scales, in [0, 1], and 1 for equal volumes.

    Windows of 7 voxels at full, half and quarter resolution, weighted 0.071, 0.453 and 0.476.
    Published values of five scales or other windows are not comparable.

    Arguments:
        a: Volumes in [0, 1], shape (N, I, J, K), sides of at least 28 voxels.
        b: Volumes of the same shape, paired with those of a.

    Returns:
        Similarity of each pair, shape (N,).
    """
    a, b = check_pair(a, b, side=MS_SIDE)
    return _each(_ms_ssim, list(a), list(b))


def pair_ms_ssim(volumes: ArrayLike, n_pairs: int = 100, seed: int = 0) -> float:
    """Mean multi-scale SSIM between pairs of volumes of one set: high for low diversity.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K), N >= 2.
        n_pairs: Number of random pairs, without repetition; all pairs if there are fewer.
        seed: Seed of the pairs.
    """
    volumes, _ = check_pair(volumes, volumes, side=MS_SIDE)
    if len(volumes) < 2 or n_pairs < 1:
        raise ValueError(
            f"diversity needs at least 2 volumes and 1 pair; got {len(volumes)} volumes and n_pairs={n_pairs}"
        )
    first, second = np.triu_indices(len(volumes), k=1)
    drawn = np.random.default_rng(seed).permutation(len(first))[:n_pairs]
    pairs = ([volumes[k] for k in side[drawn]] for side in (first, second))
    return float(_each(_ms_ssim, *pairs).mean())


def windows(x: Tensor, y: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """SSIM, and its contrast-structure term, of each window inside pairs (1, N, I, J, K)."""
    return compute_ssim_and_cs(x, y, 3, kernel_size=(side,) * 3, kernel_sigma=(SIGMA,) * 3)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM (N,) of pairs (1, N, I, J, K)."""
    return windows(x, y, WINDOW)[0].mean((0, 2, 3, 4))


def _ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale SSIM (N,) of pairs (1, N, I, J, K): SSIM at the last scale, its contrast-structure term before."""
    terms = []
    for _ in MS_WEIGHTS:
        whole, contrast = windows(x, y, MS_WINDOW)
        terms.append(contrast.mean((0, 2, 3, 4)))
        x, y = F.avg_pool3d(x, 2), F.avg_pool3d(y, 2)
    terms[-1] = whole.mean((0, 2, 3, 4))
    return torch.stack([each.relu() ** weight for each, weight in zip(terms, MS_WEIGHTS, strict=True)]).prod(0)


def _each(function: Callable[[Tensor, Tensor], Tensor], a: Sequence[NDArray], b: Sequence[NDArray]) -> NDArray:
    """Apply a function to all pairs of volumes (I, J, K), AT_ONCE pairs per thread; float64."""

    def of(start: int) -> Tensor:
        pairs = (np.stack(side[start : start + AT_ONCE]).astype(np.float32) for side in (a, b))
        return function(*(torch.from_numpy(side)[None] for side in pairs))

    return torch.cat(parallel.map_in_threads(of, range(0, len(a), AT_ONCE))).double().numpy()
