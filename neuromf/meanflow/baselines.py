"""Latents that a run's samples are compared with: other weights, the prior alone, early samples."""

from pathlib import Path

import torch
from torch import Tensor

from neuromf.core import seeds
from neuromf.meanflow.run import load_run
from neuromf.meanflow.sample import sample_latents
from neuromf.vae import statistics

# --- what a run is held against ----------------------------------------------------------------------


def baseline_latents(path: Path, *, n: int, seed: int = 0, sampler: str = "mean") -> dict[str, Tensor]:
    """Denormalised latents beside those of the run: one-step ones of its other weights and of its prior alone,
    and those it drew early."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    runs = {kind: load_run(path, kind) for kind in stored["weights"] if kind != "ema"}
    drawn = {kind: sample_latents(run, n=n, steps=1, seed=seed, sampler=sampler) for kind, run in runs.items()}
    stats = runs["online"].stats
    drawn["early"] = statistics.denormalise(stored["early"], stats)
    if prior := runs["online"].u.prior:
        eps = seeds.noise(seed, list(range(n)), runs["online"].shape)
        drawn["prior"] = statistics.denormalise(prior(eps, torch.ones(n), torch.zeros(n)), stats)
    return drawn
