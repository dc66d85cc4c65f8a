"""Equivariance of an autoencoder: errors of transforming latents instead of encoding transformed volumes.

Volumes have shape (N, 1, I, J, K), values in [0, 1]; latents have shape (N, C, I/4, J/4, K/4). The autoencoder is given
as two functions: `encode` returns posterior mean and standard deviation of a volume (1, 1, I, J, K), `decode` a volume.
Errors of latents are root mean squares in standard deviations (s.d.) of the latent. Shifts wrap around the border.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from neuromf.metrics.images.reconstruction import Decode, Encode
from neuromf.metrics.images.similarity import psnr
from neuromf.vae.equivariance import Transform, resized_grid, transform_latent, transform_volume
from neuromf.vae.maisi import DOWNSAMPLING

Change = Callable[[Tensor], Tensor]
Error = Callable[[Change, Change], float]


@torch.no_grad()
def flip_error(encode: Encode, decode: Decode, volumes: Tensor, std: list[float]) -> dict[str, float]:
    """Error of flipping latents left to right, instead of encoding flipped volumes.

    Arguments:
        encode: Function of a volume.
        decode: Function of a latent.
        volumes: Volumes, shape (N, 1, I, J, K).
        std: Standard deviation of each latent channel over the training set.

    Returns:
        flip_error, the root mean square difference between flipped latents and latents of flipped volumes, in units of
        `std`; psnr_of_flipped_volumes and psnr_of_flipped_latents, the mean PSNR (dB) of their decoded volumes against
        the flipped volumes.
    """
    errors, scores = [], []
    spread = torch.tensor(std).view(1, -1, 1, 1, 1)
    for volume in volumes.float().split(1):
        of_flipped, flipped = encode(volume.flip(2))[0], encode(volume)[0].flip(2)
        errors.append(float(((of_flipped - flipped) / spread).square().mean()))
        truth = volume.flip(2)[0].numpy()
        scores.append([psnr(truth, decode(z)[0].clamp(0, 1).numpy())[0] for z in (of_flipped, flipped)])
    volume_psnr, latent_psnr = np.mean(scores, axis=0)
    return {
        "flip_error": float(np.sqrt(np.mean(errors))),
        "psnr_of_flipped_volumes": float(volume_psnr),
        "psnr_of_flipped_latents": float(latent_psnr),
    }


@torch.no_grad()
def errors_by_axis(
    encode: Encode,
    decode: Decode,
    volumes: Tensor,
    std: list[float],
    *,
    flip_error: float | None = None,
    splits: int = 1,
) -> dict[str, list]:
    """Errors of flipping, shifting and resizing latents instead of volumes.

    Arguments:
        encode: Function of a volume.
        decode: Function of a latent.
        volumes: Volumes, shape (N, 1, I, J, K).
        std: Standard deviation of each latent channel over the training set.
        flip_error: Error of flipping left to right in s.d., as of `flip_error`; None to compute it.
        splits: Pieces of each convolution of the autoencoder.

    Returns:
        flip_error_by_axis, shift_error_by_axis (by four voxels, one latent position) and scale_error_by_axis (to half
        the size; None if the autoencoder does not take that grid), three values in s.d. each, one per axis; and
        psnr_of_shifted_latents, as of `psnr_of_shifted_latents`.
    """
    latents = torch.cat([encode(volume)[0] for volume in volumes.split(1)])
    error = partial(latent_error, encode, volumes, latents, std)
    left_right = flip_error_along(0, error) if flip_error is None else flip_error
    return {
        "flip_error_by_axis": [left_right, *(flip_error_along(axis, error) for axis in (1, 2))],
        "shift_error_by_axis": [shift_error_along(axis, error) for axis in range(3)],
        "scale_error_by_axis": [scale_error_along(axis, error, latents, splits) for axis in range(3)],
        "psnr_of_shifted_latents": psnr_of_shifted_latents(decode, volumes, latents),
    }


def latent_error(
    encode: Encode, volumes: Tensor, latents: Tensor, std: list[float], of_volume: Change, of_latent: Change
) -> float:
    """Root mean square difference of `of_latent(encode(x))` and `encode(of_volume(x))` over volumes x, in s.d."""
    spread = torch.tensor(std, dtype=latents.dtype).view(1, -1, 1, 1, 1)
    pairs = zip(volumes.split(1), latents.split(1), strict=True)
    errors = [float(((encode(of_volume(x))[0] - of_latent(z)) / spread).square().mean()) for x, z in pairs]
    return float(np.sqrt(np.mean(errors)))


def flip_error_along(axis: int, error: Error) -> float:
    """Error of flipping one axis (0, 1 or 2)."""
    flip = partial(torch.flip, dims=[axis + 2])
    return error(flip, flip)


def shift_error_along(axis: int, error: Error) -> float:
    """Error of shifting along one axis by one latent position, which is exactly four voxels."""
    return error(*(partial(torch.roll, shifts=n, dims=axis + 2) for n in (DOWNSAMPLING, 1)))


def scale_error_along(axis: int, error: Error, latents: Tensor, splits: int) -> float | None:
    """Error of halving the size along one axis by linear interpolation; None if that grid is not possible."""
    i, j, k = latents.shape[2:]
    x, y, z = (0.5 if axis == other else 1.0 for other in range(3))
    resized = Transform(grid=resized_grid((i, j, k), (x, y, z), splits=splits))
    if resized.grid == (i, j, k):
        return None
    return error(partial(transform_volume, transform=resized), partial(transform_latent, transform=resized))


def psnr_of_shifted_latents(decode: Decode, volumes: Tensor, latents: Tensor) -> list[float]:
    """Mean PSNR (dB) of decoded shifted latents against volumes shifted by 1, 2 and 3 voxels along all axes.

    Latents are shifted by a quarter, a half and three quarters of a position, by linear interpolation.
    """
    scores = []
    for n in range(1, DOWNSAMPLING):
        moved = zip(volumes.roll((n, n, n), (2, 3, 4)), shift_latents(latents, n / DOWNSAMPLING).split(1), strict=True)
        scores.append(np.mean([psnr(x.numpy(), decode(z)[0].clamp(0, 1).numpy())[0] for x, z in moved]))
    return [float(score) for score in scores]


def shift_latents(latents: Tensor, fraction: float) -> Tensor:
    """Latents shifted by a fraction of a position along all axes, by linear interpolation between neighbours."""
    for axis in (2, 3, 4):
        latents = (1 - fraction) * latents + fraction * latents.roll(1, axis)
    return latents
