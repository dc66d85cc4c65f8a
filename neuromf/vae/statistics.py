"""Channel statistics of the training latents, and normalisation by them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_PCA_SCANS = 4096  # the principal components need a Gram matrix of scans x scans
EDGES = np.linspace(-8, 8, 161)  # of histograms, in standard deviations; the outermost bins are open


def statistics(mean: Tensor, std: Tensor, n_components: int = 256) -> dict:
    """Statistics of training latents per channel, over scans and positions.

    Arguments:
        mean: Posterior means, shape (N, C, I, J, K).
        std: Posterior standard deviations, same shape.
        n_components: Maximum number of principal components to report.

    Returns:
        mean, std, skewness, excess kurtosis and mean posterior_std, C values each; correlation (C x C); histogram with
        edges in standard deviations and counts (C rows); pca_fraction, the fraction of variance along each principal
        component over scans; effective_rank, the exponential of the entropy of these fractions.
    """
    if not len(mean):
        raise ValueError("no training latents to describe: no accepted scan is in split train; see cohort.split")
    n = mean[:, 0].numel()
    centre = sum(x.sum(1) for x in _chunks(mean)) / n
    covariance = sum((x - centre[:, None]) @ (x - centre[:, None]).T for x in _chunks(mean)) / n
    spread = np.sqrt(np.diag(covariance))
    third, fourth = np.zeros((2, len(centre)))
    counts = np.zeros((len(centre), len(EDGES) - 1), int)
    for x in _chunks(mean):
        z = (x - centre[:, None]) / spread[:, None]
        third, fourth = third + (z**3).sum(1) / n, fourth + (z**4).sum(1) / n
        counts += np.stack([np.histogram(values.clip(EDGES[0], EDGES[-1]), EDGES)[0] for values in z])
    variances = _principal_variances(mean)
    return {
        "n": len(mean),
        "shape": list(mean.shape[1:]),
        "mean": centre.tolist(),
        "std": spread.tolist(),
        "skewness": third.tolist(),
        "kurtosis": (fourth - 3).tolist(),
        "posterior_std": (sum(x.sum(1) for x in _chunks(std)) / n).tolist(),
        "correlation": (covariance / np.outer(spread, spread)).tolist(),
        "histogram": {"edges": EDGES.tolist(), "counts": counts.tolist()},
        "pca_fraction": (variances / variances.sum())[:n_components].tolist(),
        "effective_rank": _effective_rank(variances),
    }


def _chunks(latent: Tensor, n_scans: int = 32) -> Iterator[NDArray]:
    """Latents of `n_scans` scans at a time as float64 arrays (C, scans x positions), which bounds the memory."""
    for some in latent.split(n_scans):
        yield some.double().transpose(0, 1).flatten(1).numpy()


def _principal_variances(mean: Tensor) -> NDArray:
    """Eigenvalues of the covariance over scans, largest first; above `MAX_PCA_SCANS` scans, of an even subsample."""
    some = mean[:: -(-len(mean) // MAX_PCA_SCANS)]
    gram = mean.new_zeros((), dtype=torch.float64)
    for channel in some.unbind(1):
        x = channel.double().flatten(1)
        x = x - x.mean(0)
        gram = gram + x @ x.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).numpy()


def _effective_rank(variances: NDArray) -> float:
    fraction = variances / variances.sum()
    fraction = fraction[fraction > 1e-12]
    return float(np.exp(-(fraction * np.log(fraction)).sum()))


def normalise(latent: Tensor, stats: dict) -> Tensor:
    """Latents (B, C, I, J, K) with zero mean and unit variance per channel of the training latents."""
    return (latent - _per_channel(stats["mean"], latent)) / _per_channel(stats["std"], latent)


def denormalise(latent: Tensor, stats: dict) -> Tensor:
    """Inverse of `normalise`; the decoder expects denormalised latents."""
    return latent * _per_channel(stats["std"], latent) + _per_channel(stats["mean"], latent)


def _per_channel(values: Sequence[float], latent: Tensor) -> Tensor:
    if len(values) != latent.shape[1]:
        raise ValueError(f"stats.json describes {len(values)} channels, latents have {latent.shape[1]}: wrong file?")
    return torch.tensor(values, dtype=latent.dtype, device=latent.device).view(1, -1, 1, 1, 1)


def read_stats(path: Path) -> dict:
    return json.loads(path.read_text())
