"""Similarity of images with several channels inside a brain mask: PSNR and SSIM per channel."""

import torch
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

WINDOW, SIGMA = 7, 1.5  # voxels
DIFFERENT = 1e-3  # from the background value


def foreground(x: Tensor) -> Tensor:
    """Voxels in which any channel differs from its first voxel, (B, I, J, K); all voxels of a constant image."""
    mask = ((x - x[:, :, :1, :1, :1]).abs() > DIFFERENT).any(1)
    return mask | ~mask.flatten(1).any(1)[:, None, None, None]


def data_range(values: Tensor) -> Tensor:
    """99.8th minus 0.2nd percentile, at least 1e-6."""
    low, high = torch.quantile(values[:: max(1, len(values) // 1_000_000)], torch.tensor([0.002, 0.998]).to(values))
    return (high - low).clamp(min=1e-6)


def masked_similarity(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR in dB and 3D SSIM of each image and channel inside the foreground of x, each of shape (B, C).

    Arguments:
        x, x_hat: Images and reconstructions, shape (B, C, I, J, K), float32; sides of at least 7 voxels.
    """
    mask = foreground(x)
    spans = torch.stack(
        [data_range(channel[inside]) for image, inside in zip(x, mask, strict=True) for channel in image]
    )
    x, x_hat = (one / spans.view(*x.shape[:2], 1, 1, 1) for one in (x, x_hat))
    weights = mask[:, None].expand_as(x).to(x)
    psnr = -10 * torch.log10(_mean((x - x_hat).square(), weights))
    estimate, target = (one.flatten(0, 1)[:, None] for one in (x_hat, x))
    ssim, _ = compute_ssim_and_cs(estimate, target, 3, [WINDOW] * 3, [SIGMA] * 3, data_range=1.0)
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    inner = weights[:, :, inside, inside, inside]
    ssim = ssim[:, 0].unflatten(0, x.shape[:2])
    return psnr, torch.where(inner.sum((2, 3, 4)) > 0, _mean(ssim, inner), ssim.mean((2, 3, 4)))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over voxels, (B, C)."""
    return (values * weights).sum((2, 3, 4)) / weights.sum((2, 3, 4)).clamp(min=1)
