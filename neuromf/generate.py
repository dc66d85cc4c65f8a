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
from neuromf.gaussian import GaussianFlow
from neuromf.latents import decode
from neuromf.nets import MeanVelocityNet, UNet
from neuromf.vae import LATENT_CHANNELS, MAISIVAEWrapper
from neuromf.volumes import write_volume

logger = logging.getLogger(__name__)


def build(
    net: dict, prediction: str, *, base: GaussianFlow | None = None, head: bool = False, seed: int = 0
) -> MeanVelocityNet:
    """The network of a study with fresh weights; `net` holds the keyword arguments of `nets.UNet`.

    A base with axes is shown to the network beside z; a head makes it give a second velocity.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {**net, "widths": tuple(net["widths"]), "attention": tuple(net["attention"])}
        channels = LATENT_CHANNELS * (2 if base is not None and base.n_axes else 1)
        unet = UNet(channels, out_channels=LATENT_CHANNELS * (1 + head), **settings)
        return MeanVelocityNet(unet, prediction, base, head=head)


@dataclass(frozen=True)
class Run:
    """A trained run: u(z, t, r) on normalised latents, their statistics and shape (C, I, J, K)."""

    u: MeanVelocityNet
    stats: dict
    shape: tuple[int, ...]


def save_run(path: Path, nets: dict[str, MeanVelocityNet], *, early: Tensor, net: dict, stats: dict) -> None:
    """Write the networks of a run by kind ("ema", "online", ...), early samples, and all that `load_run` needs.

    They differ in the weights of `net` alone; the base is written once.
    """
    u = nets["ema"]
    weights = {kind: each.net.state_dict() for kind, each in nets.items()}
    base = u.base and u.base.state_dict()
    about = {"net": net, "prediction": u.prediction, "head": u.head, "base": base, "stats": json.dumps(stats)}
    torch.save({"weights": weights, "early": early, **about}, path)


def load_run(path: Path, weights: str = "ema") -> Run:
    """A run as written by `save_run`, frozen, on the CPU; weights are "ema", "online" or another average."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    base = stored["base"] and GaussianFlow(**stored["base"])
    u = build(stored["net"], stored["prediction"], base=base, head=stored["head"])
    u.net.load_state_dict(stored["weights"][weights])
    stats = json.loads(stored["stats"])
    return Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))


def draw_latents(run: Run, *, n: int, steps: int, seed: int, batch: int = 16, sampler: str = "mean") -> Tensor:
    """n denormalised latents (n, C, I, J, K) with `steps` network evaluations each, by one of `flow.SAMPLERS`."""
    solve, per_interval = flow.SAMPLERS[sampler]
    if steps % per_interval:
        raise ValueError(f"{sampler} takes {per_interval} evaluations an interval; {steps} cannot be shared out")
    drawn = []
    for first in range(0, n, batch):
        eps = seeds.noise(seed, list(range(first, min(first + batch, n))), run.shape)
        logger.info("drawing %d of %d latents, %d evaluations each", len(eps), n, steps)
        drawn.append(solve(run.u, eps, flow.uniform_times(steps // per_interval)))
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


def others(path: Path, *, n: int, seed: int = 0, sampler: str = "mean") -> dict[str, Tensor]:
    """Denormalised latents beside those of the run: one-step ones of its other weights and of its base alone,
    and those it drew early."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    runs = {kind: load_run(path, kind) for kind in stored["weights"] if kind != "ema"}
    drawn = {kind: draw_latents(run, n=n, steps=1, seed=seed, sampler=sampler) for kind, run in runs.items()}
    stats = runs["online"].stats
    drawn["early"] = latents.denormalise(stored["early"], stats)
    if base := runs["online"].u.base:
        eps = seeds.noise(seed, list(range(n)), runs["online"].shape)
        drawn["base"] = latents.denormalise(base(eps, torch.ones(n), torch.zeros(n)), stats)
    return drawn
