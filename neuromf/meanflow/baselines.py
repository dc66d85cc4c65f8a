"""Latents that the samples of a run are compared with: other weights, the prior alone, early samples."""

from pathlib import Path

import torch
from torch import Tensor

from neuromf.core import seeds
from neuromf.meanflow.run import load_run
from neuromf.meanflow.sample import sample_latents
from neuromf.vae import statistics


def baseline_latents(path: Path, *, n: int, seed: int = 0, sampler: str = "meanflow") -> dict[str, Tensor]:
    """Denormalised one-step latents (n, C, I, J, K) of the other weights and of the prior of a run; early samples.

    Arguments:
        path: File written by `save_run`.
        n: Samples per set; of the early samples, all are returned.
        seed: Seed of the noise.
        sampler: Key of `flow.SAMPLERS`.

    Returns:
        Latents by set: "online", "ema-<half-life>", "early" and, if the run has a prior, "prior".
    """
    stored = torch.load(path, map_location="cpu", weights_only=True)
    runs = {kind: load_run(path, kind) for kind in stored["weights"] if kind != "ema"}
    latents = {kind: sample_latents(run, n=n, nfe=1, seed=seed, sampler=sampler) for kind, run in runs.items()}
    stats = runs["online"].stats
    latents["early"] = statistics.denormalise(stored["early"], stats)
    if prior := runs["online"].u.prior:
        eps = seeds.noise(seed, list(range(n)), runs["online"].shape)
        latents["prior"] = statistics.denormalise(prior(eps, torch.ones(n), torch.zeros(n)), stats)
    return latents
