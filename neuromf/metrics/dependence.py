"""Dependence between parts of a latent vector: distance correlation, cross-covariance, and a hinge on variances.

All functions take samples as rows, are differentiable, and compute in float32 at least. The squared distance
correlation is the unbiased one, from U-centred distance matrices; it can be negative and needs n >= 4.

References:
    Partial distance correlation (Székely & Rizzo, 2014), Annals of Statistics 42
    VICReg (Bardes et al., 2022), arXiv:2105.04906: hinge on standard deviations
"""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from neuromf.vae.dip import u_centred
from neuromf.vae.elbo import full_precision

MIN_SAMPLES = 4
EPSILON = 1e-4


def centred_distances(x: Tensor) -> Tensor:
    """U-centred Euclidean distances (n, n) of n samples (n, d)."""
    x = full_precision(x)
    return u_centred(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"))


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared distance correlation of x (n, p) and y (n, q): at most 1, near 0 if they are independent.

    Raises:
        ValueError: If there are fewer than 4 samples.
    """
    if len(x) < MIN_SAMPLES:
        raise ValueError(f"distance correlation needs {MIN_SAMPLES} samples; got {len(x)}")
    return _correlation(centred_distances(x), centred_distances(y))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance correlation of U-centred matrices; 0 if one is constant. The factor 1 / (n (n - 3)) cancels."""
    norms = (a.square().sum() * b.square().sum()).clamp(min=torch.finfo(a.dtype).tiny).sqrt()
    return (a * b).sum() / norms


def distance_correlations(z: Tensor, parts: Mapping[str, slice]) -> dict[tuple[str, str], Tensor]:
    """Squared distance correlation of every pair of parts of z (n, d)."""
    matrices = {name: centred_distances(z[:, span]) for name, span in parts.items()}
    return {(one, other): _correlation(matrices[one], matrices[other]) for one, other in combinations(parts, 2)}


def cross_pairs(parts: Mapping[str, slice], dim: int) -> Tensor:
    """Whether dimensions i and j are in different parts, (d, d)."""
    owner = torch.empty(dim, dtype=torch.long)
    for number, span in enumerate(parts.values()):
        owner[span] = number
    return owner[:, None] != owner


def cross_covariance(z: Tensor, parts: Mapping[str, slice]) -> Tensor:
    """Mean squared covariance of dimensions in different parts, of z (n, d) with n >= 2."""
    across = cross_pairs(parts, z.shape[1]).to(z.device)
    return torch.cov(full_precision(z).T).square()[across].mean()


def largest_correlation(z: Tensor, parts: Mapping[str, slice]) -> float:
    """Largest absolute correlation of dimensions in different parts; constant dimensions count as uncorrelated."""
    across = cross_pairs(parts, z.shape[1]).to(z.device)
    return float(torch.corrcoef(z.double().T).nan_to_num().abs()[across].max())


def variance_hinge(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 - sqrt(Var + 1e-4)): 0 if every standard deviation is above 1."""
    return (1 - (full_precision(z).var(0) + EPSILON).sqrt()).clamp(min=0).mean()
