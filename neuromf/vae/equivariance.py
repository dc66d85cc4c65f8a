"""Equivariance of an autoencoder: transforms of volumes and latents alike, and the loss of training.

Without such a loss the latent of a mirrored volume is not the mirrored latent. Latents that change as their volumes do
are easier to model. Training adds the loss of decode(tau(z)) to tau(x), where tau is a random flip or resizing of the
latent z of a volume x.

Volumes have shape (B, 1, 4 I, 4 J, 4 K), latents (B, C, I, J, K).

References:
    EQ-VAE: Equivariance Regularized Latent Space for Improved Generative Image Modeling, arXiv:2502.09509
    Improving the Diffusability of Autoencoders, arXiv:2502.14831: scale equivariance
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromf.vae.maisi import DOWNSAMPLING, MIN_SPLIT

Grid = tuple[int, int, int]
SCALES = (0.5, 1.0)  # range of random scales; from 1/2 up, linear interpolation leaves out no voxel


@dataclass(frozen=True)
class Transform:
    """A transform of volumes and latents alike: flips, then resizing. The defaults change nothing.

    Arguments:
        flips: Whether each axis is flipped.
        grid: Latent positions along each axis after resizing; None: not resized. Volumes get four times as many voxels.
    """

    flips: tuple[bool, bool, bool] = (False, False, False)
    grid: Grid | None = None


def transform_volume(volume: Tensor, transform: Transform) -> Tensor:
    """Transformed volumes (B, 1, 4 I, 4 J, 4 K)."""
    return _transform(volume, transform, DOWNSAMPLING)


def transform_latent(latent: Tensor, transform: Transform) -> Tensor:
    """Transformed latents (B, C, I, J, K)."""
    return _transform(latent, transform, 1)


def _transform(x: Tensor, transform: Transform, factor: int) -> Tensor:
    """Flip x, then resize it to `factor` elements per latent position by trilinear interpolation."""
    x = x.flip([axis for axis, flipped in enumerate(transform.flips, start=2) if flipped])
    if transform.grid is None:
        return x
    return F.interpolate(x, [factor * n for n in transform.grid], mode="trilinear", align_corners=False)


def resized_grid(grid: Grid, scales: tuple[float, float, float], *, splits: int = 1) -> Grid:
    """The grid nearest to `scales` times a latent grid (I, J, K) that the autoencoder takes.

    Arguments:
        splits: Pieces of each convolution, `autoencoder.num_splits`: J must divide into pieces of at least `MIN_SPLIT`.
    """
    least = (1, MIN_SPLIT * splits if splits > 1 else 1, 1)
    i, j, k = (
        max(smallest, round(scale * n / unit) * unit)
        for n, scale, unit, smallest in zip(grid, scales, (1, splits, 1), least, strict=True)
    )
    return i, j, k


def draw_transform(generator: torch.Generator, grid: Grid, *, splits: int = 1) -> Transform:
    """Random transform: a flip of at least one axis and, with probability 1/2, a resizing by one factor of all axes.

    Each axis is flipped with probability 1/2, given that one is. The factor is uniform in `SCALES`.

    Arguments:
        generator: Random generator; three numbers are drawn.
        grid: Latent positions (I, J, K) before the transform.
        splits: As for `resized_grid`.
    """
    axes = int(torch.randint(1, 8, (), generator=generator))  # one bit per axis
    low, high = SCALES
    scale = low + (high - low) * float(torch.rand((), generator=generator))
    resize = float(torch.rand((), generator=generator)) < 0.5
    resized = resized_grid(grid, (scale, scale, scale), splits=splits)
    flips = (bool(axes & 1), bool(axes & 2), bool(axes & 4))
    return Transform(flips, resized if resize and resized != grid else None)


def equivariance_loss(
    decode: Callable[[Tensor], Tensor],
    latent: Tensor,
    volume: Tensor,
    transform: Transform,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Loss of the decoded transformed latent to the transformed volume; the encoder gets gradients through the latent.

    Arguments:
        decode: Function of latents.
        latent: Latents of `volume`, shape (B, C, I, J, K).
        volume: Volumes, shape (B, 1, 4 I, 4 J, 4 K).
        transform: Transform of both.
        loss: Function of volumes and reconstructions that returns a scalar.
    """
    return loss(transform_volume(volume, transform), decode(transform_latent(latent, transform)))
