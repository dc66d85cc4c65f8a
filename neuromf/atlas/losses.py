"""Reconstruction terms of the atlas, all summed over voxels and averaged over the batch, so that KL counts in nats.

| term | value per sample | decoder |
|---|---|---|
| mse_sum | sum (x - mu)^2 | maps |
| gauss | 1/2 sum [(x - mu)^2 exp(-lv) + lv] | maps and log-variances |
| poisson | sum_voxels lambda - sum_foci log lambda | log-intensities |

A mean over voxels would hide the signal: its variance is .012, so that at most .012 could be won against KL in nats.
"""

import torch
from torch import Tensor

from neuromf.vae.elbo import full_precision


def mse_sum(x: Tensor, mu: Tensor) -> Tensor:
    """Squared error summed over voxels, (B,); x and mu are (B, V)."""
    return (full_precision(mu) - x).square().sum(1)


def gauss(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Negative Gaussian log-likelihood without its constant, summed over voxels, (B,)."""
    return 0.5 * ((full_precision(mu) - x).square() * (-logvar).exp() + logvar).sum(1)


def poisson(counts: Tensor, log_intensity: Tensor) -> Tensor:
    """Negative log-likelihood of a Poisson process per voxel without log n!, (B,).

    Arguments:
        counts: Foci per voxel, (B, V).
        log_intensity: Logarithm of the expected foci per voxel, (B, V).
    """
    log_intensity = full_precision(log_intensity)
    return log_intensity.exp().sum(1) - (counts * log_intensity).sum(1)


def bits_per_focus(counts: Tensor, log_intensity: Tensor) -> Tensor:
    """Mean over all foci of log2 of the normalised rate at their voxel, ()."""
    log_rate = full_precision(log_intensity).log_softmax(1)
    return (counts * log_rate).sum() / counts.sum().clamp(min=1) / torch.log(torch.tensor(2.0))
