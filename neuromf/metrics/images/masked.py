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
    margin, rows = WINDOW // 2, []
    for image, estimate, mask in zip(x, x_hat, foreground(x), strict=True):
        inner = mask[(slice(margin, -margin),) * 3]
        for channel, other in zip(image, estimate, strict=True):
            span = data_range(channel[mask])
            psnr = 10 * torch.log10(span**2 / (channel - other)[mask].square().mean())
            window = [WINDOW] * 3
            ssim, _ = compute_ssim_and_cs(
                other[None, None], channel[None, None], 3, window, [SIGMA] * 3, data_range=float(span)
            )
            rows.append(torch.stack([psnr, ssim[0, 0][inner].mean() if inner.any() else ssim.mean()]))
    return torch.stack(rows).unflatten(0, x.shape[:2]).unbind(-1)  # type: ignore[return-value]
