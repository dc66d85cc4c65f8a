r"""The one-step prior: MeanFlow on the latents z of a volume model, in place of N(0, I).

A VAE is trained towards N(0, I), but the latents that its decoder reads are those of the aggregated posterior
q(z) = mean over training studies of q(z | map, m). The prior learns q(z) with the flow of `neuromf.meanflow`, starting
at its Gaussian in closed form (`GaussianPrior`); one network evaluation turns noise eps ~ N(0, I) into a latent,
z = eps - u(eps, t = 1, r = 0). Latents have shape (B, d), inside the flow (B, d, 1, 1, 1).

References:
    ELBO surgery (Hoffman and Johnson, 2016): the prior that maximises the bound is the aggregated posterior
    Mean Flows for One-step Generative Modeling (Geng et al., 2025), arXiv:2505.13447
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from neuromf.atlas.inference import load_atlas
from neuromf.atlas.studies import read_studies
from neuromf.core.files import save_tensors, sha256
from neuromf.core.seeds import generator
from neuromf.meanflow import flow
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.toy_torus import by_epoch, raw_losses
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn.ema import EMA
from neuromf.nn.mlp import MLP

logger = logging.getLogger(__name__)

N_EPOCHS = 50  # rows of the history
AT_ONCE = 8192


class VectorNet(nn.Module):
    """An MLP on channels (B, C, 1, 1, 1), the shape of the latents of `MeanVelocityNet` with a Gaussian prior.

    Its inputs are the 2 d channels of whitened latent and predicted data, its outputs the d channels of the latent.
    """

    def __init__(self, z_dim: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.mlp = MLP(2 * z_dim, z_dim, width=width, depth=depth)
        nn.init.zeros_(self.mlp.outlet.bias)  # as its weight: training starts at the Gaussian

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return as_field(self.mlp(z.flatten(1), t, r))


class LatentPrior(nn.Module):
    """Maps noise (B, d) to latents (B, d) by one or more network evaluations.

    Arguments:
        u: Average velocity with a Gaussian start.
        settings: Width and depth of the network.
        card: Scale, checkpoint of the volume model and seed.
    """

    def __init__(self, u: MeanVelocityNet, settings: Mapping[str, int], card: Mapping[str, Any]) -> None:
        super().__init__()
        self.u, self.settings, self.card = u.requires_grad_(False).eval(), dict(settings), dict(card)
        self.z_dim: int = u.net.mlp.outlet.out_features  # type: ignore[union-attr, assignment]  # a `VectorNet`

    def forward(self, noise: Tensor, nfe: int = 1) -> Tensor:
        """Latents (B, d) of noise (B, d) with `nfe` network evaluations."""
        parts = [flow.sample(self.u, as_field(part), flow.uniform_times(nfe)) for part in noise.split(AT_ONCE)]
        return torch.cat(parts).flatten(1)

    def gaussian(self, noise: Tensor) -> Tensor:
        """Latents (B, d) of the Gaussian start alone, in closed form: what the network adds to."""
        t = noise.new_ones(len(noise))
        return self.u.prior(as_field(noise), t, torch.zeros_like(t)).flatten(1)  # type: ignore[misc]  # not None

    def path(self, noise: Tensor, n_steps: int = 10) -> Tensor:
        """Points (n_steps + 1, B, d) of the sampling path from noise at t = 1 to latents at t = 0."""
        times = flow.uniform_times(n_steps)
        points = [as_field(noise)]
        for start, end in zip(times, times[1:], strict=False):
            points.append(flow.sample(self.u, points[-1], (start, end)))
        return torch.stack(points).flatten(2)

    def save(self, path: str | Path) -> None:
        """Write a file that `load_prior` reads."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({"weights": self.u.state_dict(), "settings": self.settings, "card": self.card}, path)


def load_prior(path: str | Path) -> LatentPrior:
    """The prior of a file that `LatentPrior.save` wrote."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    u = new_velocity(torch.zeros(2, len(state["weights"]["prior.mean"])), seed=0, **state["settings"])
    u.load_state_dict(state["weights"])
    return LatentPrior(u, state["settings"], state["card"])


def as_field(z: Tensor) -> Tensor:
    """Vectors (B, d) as (B, d, 1, 1, 1)."""
    return z[..., None, None, None]


def new_velocity(z: Tensor, *, width: int, depth: int, seed: int) -> MeanVelocityNet:
    """Untrained x-prediction that starts at the Gaussian of latents z (N, d): exact if they are Gaussian."""
    n, z_dim = z.shape
    mean = as_field(z.mean(0, keepdim=True))[0]
    start = GaussianPrior.fit(as_field(z), 0, decomposition=(mean, z.new_zeros(0, z_dim), z.new_zeros(0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MeanVelocityNet(VectorNet(z_dim, width=width, depth=depth), "x", start)


def train_prior(
    mu: Tensor,
    logvar: Tensor,
    *,
    n_steps: int = 600,
    batch: int = 256,
    lr: float = 2e-3,
    width: int = 128,
    depth: int = 2,
    halflife_steps: int = 100,
    fraction_r_equals_t: float = 0.5,
    fraction_corner: float = 0.1,
    seed: int = 0,
    card: Mapping[str, Any] | None = None,
) -> tuple[LatentPrior, pd.DataFrame]:
    """Train the prior on posterior samples z = mu + exp(logvar / 2) eps, drawn anew in each step.

    Arguments:
        mu: Posterior means of the training studies, shape (N, d).
        logvar: Posterior log-variances, shape (N, d).
        halflife_steps: Half-life of the weight average in optimiser steps.
        fraction_r_equals_t: Fraction of flow-matching pairs, see `flow.draw_times`.
        fraction_corner: Fraction of pairs near one-step generation, see `flow.draw_times`.
        card: Values to store with the weights.

    Returns:
        The prior with averaged weights, and a history with columns step, epoch, raw_r_equals_t, raw_r_below_t, raw.

    Raises:
        ValueError: If a latent is not finite.
        FloatingPointError: If a loss is not finite.
    """
    if not (finite := (mu.isfinite() & logvar.isfinite()).all(1)).all():
        raise ValueError(f"latents of rows {(~finite).nonzero().flatten()[:5].tolist()} are not finite")
    start = posterior_samples(mu, logvar, torch.arange(len(mu)), generator("latent prior start", seed))
    u = new_velocity(start, width=width, depth=depth, seed=seed).train()
    ema = EMA(u, halflife_images=halflife_steps * batch)
    ema.net.train()  # bounds t in the division as u does; the network has no other mode
    optimiser = torch.optim.Adam(u.parameters(), lr=lr, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    fractions = {"fraction_r_equals_t": fraction_r_equals_t, "fraction_corner": fraction_corner}
    rows = []
    for step in range(n_steps):
        loss, raw = prior_loss(u, ema.net, *draw_batch(mu, logvar, batch, seed, step, **fractions))
        if not loss.isfinite():
            raise FloatingPointError(f"loss of the latent prior is {loss.item()} at step {step}: lower atlas.prior.lr")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        ema.update(u, batch, step * batch)
        rows.append(raw)
    history = by_epoch(pd.DataFrame(rows), min(N_EPOCHS, n_steps))
    return LatentPrior(ema.net, {"width": width, "depth": depth}, {**(card or {}), "seed": seed}), history


def draw_batch(
    mu: Tensor, logvar: Tensor, batch: int, seed: int, step: int, **fractions: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents x and noise eps (B, d, 1, 1, 1), times t and r (B,) of one step; determined by seed and step."""
    random = generator("latent prior", seed, step)
    rows = torch.randint(len(mu), (batch,), generator=random)
    x = posterior_samples(mu, logvar, rows, random)
    eps = torch.randn(x.shape, generator=random)
    t, r = flow.draw_times(batch, random, **fractions)
    return as_field(x), as_field(eps), t.float(), r.float()


def posterior_samples(mu: Tensor, logvar: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
    """Samples (len(rows), d) of q(z | study) for rows of mu and logvar (N, d)."""
    noise = torch.randn((len(rows), mu.shape[1]), generator=random)
    return mu[rows] + (0.5 * logvar[rows]).exp() * noise


def prior_loss(
    u: nn.Module, teacher: nn.Module, x: Tensor, eps: Tensor, t: Tensor, r: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """MeanFlow loss of a batch per dimension, and raw losses by kind of time pair.

    Where r < t, tangent and target are the velocity of the teacher, the weight average (`flow.regression_target`).

    Not adaptively weighted: with few dimensions a weight that falls with a sample's own loss pulls the field from the
    conditional mean towards the most frequent latents.
    """
    z, v = flow.training_path(x, eps, t, "x")
    teacher_v = flow.predicted_tangent(teacher, z, t, r)
    V = flow.implied_velocity(*flow.single_pass(u, z, t, r, teacher_v), t, r)
    loss = (V - flow.regression_target(v, teacher_v, t, r)).square().mean()
    return loss, raw_losses(flow.raw_loss(V, v), moving=r < t)


def write_prior(
    studies: str | Path, checkpoint: str | Path, out: str | Path, history: str | Path, *, seed: int = 0, **training: Any
) -> LatentPrior:
    """Train the prior of a volume model on the training studies of a folder, and write it and its history.

    Arguments:
        studies: Folder of studies.
        checkpoint: Checkpoint of the volume model.
        out: File of the prior.
        history: CSV file.
        training: Further arguments of `train_prior`.
    """
    atlas, everything = load_atlas(checkpoint), read_studies(studies)
    mu, logvar = atlas.latents(everything.take(everything.rows("train")))
    card = {"scale": everything.scale, "checkpoint": sha256(checkpoint), "z_dim": atlas.z_dim}
    prior, rows = train_prior(torch.from_numpy(mu), torch.from_numpy(logvar), seed=seed, card=card, **training)
    prior.save(out)
    rows.to_csv(history, index=False)
    logger.info("latent prior: raw loss %.3f, last epoch", rows["raw"].iloc[-1])
    return prior
