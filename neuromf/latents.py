"""Latents of a study: encoded once, their posterior moments kept, normalised by statistics of training people.

A shard is one file: a dict of `scans` (names), `mean` and `std` (N, 4, I, J, K) float32, and `mirrored`, the mean of
the left-right mirrored volume. Mirrors are encoded as images, since the autoencoder pads one side of each axis
and is not flip-equivariant: flipping a latent is not encoding a flipped head.
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuromf.vae import MAISIVAEWrapper
from neuromf.volumes import read_volume

logger = logging.getLogger(__name__)

LEFT_RIGHT = 2  # axis of a batch (B, C, I, J, K) that runs from left to right in RAS+


@torch.no_grad()
def encode(vae: MAISIVAEWrapper, files: Sequence[Path], *, batch: int, mirror: bool) -> dict[str, Tensor]:
    """Posterior moments of volumes on disk, with shape (N, 4, I, J, K) each; see the module for the keys."""
    parts: dict[str, list[Tensor]] = {"mean": [], "std": [], "mirrored": []}
    start = time.monotonic()
    for first in range(0, len(files), batch):
        chosen = files[first : first + batch]
        volume = torch.stack([torch.from_numpy(read_volume(file)[0])[None] for file in chosen])
        for name, moment in zip(("mean", "std"), vae.encode(volume), strict=True):
            parts[name].append(moment)
        if mirror:
            parts["mirrored"].append(vae.encode(volume.flip(LEFT_RIGHT))[0])
        done = first + len(chosen)
        if done % (16 * batch) == 0 or done == len(files):
            logger.info(
                "encoded %d of %d volumes, %.1f per second", done, len(files), done / (time.monotonic() - start)
            )
    return {name: torch.cat(moments) for name, moments in parts.items() if moments}


@torch.no_grad()
def decode(vae: MAISIVAEWrapper, latent: Tensor) -> Tensor:
    """Volumes (N, I, J, K) in [0, 1] of denormalised latents (N, C, i, j, k), decoded one by one."""
    return torch.cat([vae.decode(one[None])[:, 0] for one in latent]).clamp(0, 1)


def load_shards(paths: Sequence[Path]) -> dict[str, list[str] | Tensor]:
    """All shards as one dict, memory-mapped where there is only one."""
    shards = [torch.load(path, weights_only=True, mmap=True) for path in paths]
    shards = [shard for shard in shards if shard["scans"]]  # one may hold only scans that were set aside
    joined: dict = {"scans": [scan for shard in shards for scan in shard["scans"]]}
    for name in shards[0].keys() - {"scans"}:
        joined[name] = torch.cat([shard[name] for shard in shards])
    return joined


def of_split(shards: dict, splits: dict[str, str], split: str) -> dict:
    """The part of joined shards whose scans belong to a split; splits maps scans to splits."""
    rows = [i for i, scan in enumerate(shards["scans"]) if splits[scan] == split]
    return {
        name: [value[i] for i in rows] if name == "scans" else value[torch.tensor(rows, dtype=torch.long)]
        for name, value in shards.items()
    }


# --- statistics --------------------------------------------------------------------------------------


def statistics(mean: Tensor, std: Tensor, n_components: int = 16) -> dict:
    """What training latents (N, C, I, J, K) look like, per channel over people and positions.

    Returns:
        mean, std, skewness, kurtosis (excess) and posterior_std, C values each; correlation (C x C); and
        pca_share, the share of variance along the first principal components over people.
    """
    x = mean.double().transpose(0, 1).flatten(1).numpy()
    centre, spread = x.mean(1), x.std(1)
    z = (x - centre[:, None]) / spread[:, None]
    return {
        "n": len(mean),
        "shape": list(mean.shape[1:]),
        "mean": centre.tolist(),
        "std": spread.tolist(),
        "skewness": (z**3).mean(1).tolist(),
        "kurtosis": ((z**4).mean(1) - 3).tolist(),
        "posterior_std": std.double().mean((0, 2, 3, 4)).tolist(),
        "correlation": np.corrcoef(x).tolist(),
        "pca_share": pca_share(mean, n_components),
        "effective_rank": effective_rank(mean),
    }


def _eigenvalues(mean: Tensor) -> np.ndarray:
    """Eigenvalues of the covariance over people, largest first, from the N x N Gram matrix."""
    x = mean.double().flatten(1)
    x = x - x.mean(0)
    return torch.linalg.eigvalsh(x @ x.T).flip(0).clamp(min=0).numpy()


def pca_share(mean: Tensor, n_components: int) -> list[float]:
    """Share of variance over people along each of the first principal components."""
    values = _eigenvalues(mean)
    return (values / values.sum())[:n_components].tolist()


def effective_rank(mean: Tensor) -> float:
    """Exponential of the entropy of the principal variances: how many directions people really differ in."""
    share = _eigenvalues(mean) / _eigenvalues(mean).sum()
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


def training_set(paths: Sequence[Path], splits: dict[str, str], stats: dict) -> Tensor:
    """Normalised latents of the training people and, where encoded, of their mirrors: (N, C, I, J, K) in memory."""
    train = of_split(load_shards(paths), splits, "train")
    means = [train[name] for name in ("mean", "mirrored") if name in train]
    return normalise(torch.cat(means), stats)
