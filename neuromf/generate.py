"""From seeds to volumes: a trained run, noise, a few evaluations, the decoder, NIfTI.

Sample k of seed s is the same volume whatever the batch it was made in.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuromf import flow, latents, seeds
from neuromf.cohort import write_table
from neuromf.latents import decode
from neuromf.nets import MeanVelocityNet, UNet
from neuromf.vae import LATENT_CHANNELS, MAISIVAEWrapper
from neuromf.volumes import write_volume

logger = logging.getLogger(__name__)


def build(net: dict, prediction: str, *, mean: Tensor | None = None, seed: int = 0) -> MeanVelocityNet:
    """The network of a study with fresh weights; `net` holds the keyword arguments of `nets.UNet`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {**net, "widths": tuple(net["widths"]), "attention": tuple(net["attention"])}
        return MeanVelocityNet(UNet(LATENT_CHANNELS, **settings), prediction, mean)


@dataclass(frozen=True)
class Run:
    """A trained run: u(z, t, r) on normalised latents, their statistics and shape (C, I, J, K)."""

    u: MeanVelocityNet
    stats: dict
    shape: tuple[int, ...]


def save_run(path: Path, u: MeanVelocityNet, *, online: MeanVelocityNet, early: Tensor, net: dict, stats: dict) -> None:
    """Write averaged and online weights, early samples, and all that `load_run` needs to use them."""
    about = {"net": net, "prediction": u.prediction, "stats": json.dumps(stats)}
    torch.save({"ema": u.state_dict(), "online": online.state_dict(), "early": early, **about}, path)


def load_run(path: Path, weights: str = "ema") -> Run:
    """A run as written by `save_run`, frozen, on the CPU; weights are "ema" or "online"."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    u = build(stored["net"], stored["prediction"], mean=torch.empty_like(stored[weights]["mean"]))
    u.load_state_dict(stored[weights])
    stats = json.loads(stored["stats"])
    return Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))


def draw_latents(run: Run, *, n: int, steps: int, seed: int, batch: int = 16) -> Tensor:
    """n denormalised latents (n, C, I, J, K) with `steps` network evaluations each."""
    drawn = []
    for first in range(0, n, batch):
        eps = seeds.noise(seed, list(range(first, min(first + batch, n))), run.shape)
        logger.info("drawing %d of %d latents, %d evaluations each", len(eps), n, steps)
        drawn.append(flow.sample(run.u, eps, flow.uniform_times(steps)))
    return latents.denormalise(torch.cat(drawn), run.stats)


def write_volumes(vae: MAISIVAEWrapper, latent: Tensor, folder: Path, *, spacing_mm: float, seed: int) -> None:
    """Decode latents (N, C, i, j, k) one by one to folder/{number}.nii.gz, with a table of their seeds.

    The grid is RAS+ with the origin in the middle of the volume, as no scanner says where it was.
    """
    rows = []
    for number, one in enumerate(latent):
        volume = decode(vae, one[None])[0].numpy()
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = [-spacing_mm * (n - 1) / 2 for n in volume.shape]
        file = folder / f"{number:05d}.nii.gz"
        write_volume(file, volume, affine)
        rows.append({"number": number, "seed": seed, "file": str(file)})
        if number % 16 == 15:
            logger.info("wrote %d of %d volumes", number + 1, len(latent))
    write_table(pd.DataFrame(rows), folder / "samples.tsv")


def others(path: Path, *, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Denormalised one-step latents of the online weights, and those the run itself drew early."""
    online = load_run(path, "online")
    early = torch.load(path, map_location="cpu", weights_only=True)["early"]
    return {
        "online": draw_latents(online, n=n, steps=1, seed=seed),
        "early": latents.denormalise(early, online.stats),
    }
