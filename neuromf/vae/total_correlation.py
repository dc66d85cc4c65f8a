"""Decomposition of the KL divergence into mutual information, total correlation and dimension-wise KL.

Reference:
    Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018): minibatch-weighted sampling
"""

import math

import torch
from torch import Tensor

from neuromf.vae.elbo import full_precision


def decompose_kl(z: Tensor, mu: Tensor, logvar: Tensor, n_data: int) -> dict[str, Tensor]:
    """mi, tc and dwkl in nats, float32: batch means of minibatch-weighted estimates, whose sum estimates the KL.

    Arguments:
        z: Samples of the posterior, shape (B, d).
        mu, logvar: Posterior, shape (B, d).
        n_data: Number of training samples.
    """
    with torch.autocast(z.device.type, enabled=False):
        z, mu, logvar = full_precision(z), full_precision(mu), full_precision(logvar)
        pairs = log_normal(z[:, None], mu[None], logvar[None])  # (B, B, d)
        weight = math.log(n_data * len(z))
        joint = torch.logsumexp(pairs.sum(2), 1) - weight
        product = (torch.logsumexp(pairs, 1) - weight).sum(1)
        prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
        posterior = log_normal(z, mu, logvar).sum(1)
        parts = {"mi": posterior - joint, "tc": joint - product, "dwkl": product - prior}
        return {name: part.mean() for name, part in parts.items()}


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of N(mu, exp(logvar)) at z, element by element."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).square() * (-logvar).exp())
