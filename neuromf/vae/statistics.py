"""Per-channel statistics of the training latents, and normalisation by them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PCA_PEOPLE = 4096  # at most so many span the principal components, whose Gram matrix is people x people
EDGES = np.linspace(-8, 8, 161)  # of histograms, in standard deviations; what lies beyond is in the outermost bins


# --- statistics --------------------------------------------------------------------------------------


def statistics(mean: Tensor, std: Tensor, n_components: int = 256) -> dict:
    """What training latents (N, C, I, J, K) look like, per channel over people and positions.

    Returns:
        mean, std, skewness, kurtosis (excess) and posterior_std, C values each; correlation (C x C); histogram,
        with edges in standard deviations and C rows of counts; pca_share, the share of variance along the first
        principal components over people, and effective_rank.
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
    variances = _eigenvalues(mean)
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
        "pca_share": (variances / variances.sum())[:n_components].tolist(),
        "effective_rank": _rank(variances),
    }


def _chunks(latent: Tensor, people: int = 32) -> Iterator[NDArray]:
    """Latents of so many people at a time as (C, people x positions) in float64, so that many fit."""
    for some in latent.split(people):
        yield some.double().transpose(0, 1).flatten(1).numpy()


def _eigenvalues(mean: Tensor) -> NDArray:
    """Eigenvalues of the covariance over people, largest first, from their Gram matrix, channel by channel.

    Of more than `PCA_PEOPLE`, every so-manyth is taken.
    """
    some = mean[:: -(-len(mean) // PCA_PEOPLE)]
    gram = mean.new_zeros((), dtype=torch.float64)
    for channel in some.unbind(1):
        x = channel.double().flatten(1)
        x = x - x.mean(0)
        gram = gram + x @ x.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).numpy()


def _rank(variances: NDArray) -> float:
    """Exponential of the entropy of the principal variances: how many directions people really differ in."""
    share = variances / variances.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


# --- normalisation -----------------------------------------------------------------------------------


def _as_channels(values: Sequence[float], like: Tensor) -> Tensor:
    if len(values) != like.shape[1]:
        raise ValueError(f"statistics are of {len(values)} channels, latents have {like.shape[1]}: wrong stats.json?")
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)


def normalise(latent: Tensor, stats: dict) -> Tensor:
    """Latents (B, C, I, J, K) with the channel means and deviations of the training people taken out."""
    return (latent - _as_channels(stats["mean"], latent)) / _as_channels(stats["std"], latent)


def denormalise(latent: Tensor, stats: dict) -> Tensor:
    """Inverse of `normalise`, due before decoding."""
    return latent * _as_channels(stats["std"], latent) + _as_channels(stats["mean"], latent)


def read_stats(path: Path) -> dict:
    return json.loads(path.read_text())
