r"""A toy problem with known answers: MeanFlow on a torus.

The Clifford torus is a pair of unit circles, (cos a, sin a, cos b, sin b) in R^4, with both angles uniform. A fixed
orthonormal map embeds it in R^D, D >= 4. Generated points are evaluated by their `distance` to the torus and by the
`uniformity` of their angles. Points have shape (B, D), lengths are in units of the circles' radius, angles in radians.

References:
    Mean Flows for One-step Generative Modeling (Geng et al., 2025), arXiv:2505.13447
"""

import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from neuromf.core import seeds
from neuromf.meanflow import flow
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn.ema import EMA
from neuromf.nn.mlp import MLP

logger = logging.getLogger(__name__)


@cache
def basis(dim: int) -> Tensor:
    """Orthonormal basis of the subspace of the torus in R^dim, float64, shape (dim, 4)."""
    if dim < 4:
        raise ValueError(f"the torus needs at least 4 dimensions; got dim={dim}")
    normal = torch.randn(dim, 4, generator=seeds.generator("torus-basis", dim), dtype=torch.float64)
    return torch.linalg.qr(normal).Q


def embed(points: Tensor, dim: int) -> Tensor:
    """Isometric embedding of points (B, 4) in R^dim, shape (B, dim)."""
    return points @ basis(dim).to(points).T


def unembed(points: Tensor) -> Tensor:
    """Coordinates (B, 4) of points (B, D) in the planes of the two circles."""
    return points @ basis(points.shape[1]).to(points)


def sample(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """n uniformly distributed points of the torus in R^dim, float64, shape (n, dim)."""
    a, b = 2 * math.pi * torch.rand(2, n, generator=generator, dtype=torch.float64)
    return embed(torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], dim=1), dim)


def distance(points: Tensor) -> Tensor:
    r"""Euclidean distance of each point to the torus, shape (B,).

    .. math:: d^2 = (\rho_a - 1)^2 + (\rho_b - 1)^2 + \|p - Q Q^T p\|^2

    with the radii rho in the planes of the circles and the basis Q of these planes.
    """
    inside = unembed(points)
    outside = points - embed(inside, points.shape[1])
    radii = torch.stack([inside[:, :2].norm(dim=1), inside[:, 2:].norm(dim=1)], dim=1)
    return ((radii - 1).square().sum(1) + outside.square().sum(1)).sqrt()


def angles(points: Tensor) -> Tensor:
    """Angles a and b of each point, in [-pi, pi], shape (B, 2)."""
    inside = unembed(points)
    return torch.stack([torch.atan2(inside[:, 1], inside[:, 0]), torch.atan2(inside[:, 3], inside[:, 2])], dim=1)


def uniformity(points: Tensor) -> tuple[float, float]:
    """p-values of the Kolmogorov-Smirnov test of each angle against the uniform distribution."""
    fraction = (angles(points).double().cpu().numpy() + math.pi) / (2 * math.pi)
    p_a, p_b = (float(kstest(column, "uniform").pvalue) for column in fraction.T)
    return p_a, p_b


def ring(points: Tensor) -> Tensor:
    """Projection to R^3 for plots, shape (B, 3): (p1, p2, p3, p4) maps to ((2 + p3) p1, (2 + p3) p2, p4).

    The torus becomes a ring with tube radius 1 and radius 2; points off the torus lie off the ring.
    """
    p1, p2, p3, p4 = unembed(points).T
    return torch.stack([(2 + p3) * p1, (2 + p3) * p2, p4], dim=1)


def draw_batch(n: int, dim: int, seed: int, step: int, **fractions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data x, noise eps and times t, r of one training step, float32; determined by seed and step."""
    generator = seeds.generator("torus", seed, step)
    x = sample(n, dim, generator)
    eps = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    t, r = flow.draw_times(n, generator, **fractions)
    return x.float(), eps.float(), t.float(), r.float()


def new_net(dim: int, prediction: str, *, width: int, depth: int, seed: int) -> MeanVelocityNet:
    """An untrained MLP; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MeanVelocityNet(MLP(dim, width=width, depth=depth), prediction)


def train(
    dim: int,
    prediction: str,
    *,
    tangent: str = "predicted",
    n_steps: int = 2800,
    batch: int = 256,
    lr: float = 4e-3,
    width: int = 128,
    depth: int = 2,
    halflife_steps: int = 100,
    fraction_r_equals_t: float = 0.25,
    fraction_corner: float = 0.1,
    n_epochs: int = 100,
    seed: int = 0,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train MeanFlow on fresh points of the torus with Adam and a cosine schedule to zero.

    With the conditional tangent, the noise of v enters the loss of pairs with r < t, which may rise while the field
    improves, the more the larger D is. The predicted tangent has no such noise.

    Arguments:
        dim: Dimension D of the embedding space.
        prediction: Prediction of the network, "u" or "x".
        tangent: "predicted" for u(z, t, t), "conditional" for v = eps - x.
        halflife_steps: Half-life of the EMA in optimiser steps.
        fraction_r_equals_t: Fraction of flow-matching pairs, see `flow.draw_times`.
        fraction_corner: Fraction of pairs near one-step generation, see `flow.draw_times`.
        n_epochs: Rows of the history, over n_steps / n_epochs steps each.

    Returns:
        The EMA network u(z, t, r), and a history with columns step, epoch, prediction, dim and the raw losses
        raw_r_equals_t, raw_r_below_t and raw (all pairs).

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    net = new_net(dim, prediction, width=width, depth=depth, seed=seed)
    ema = EMA(net, halflife_images=halflife_steps * batch)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    fractions = {"fraction_r_equals_t": fraction_r_equals_t, "fraction_corner": fraction_corner}
    rows = []
    for step in range(n_steps):
        x, eps, t, r = draw_batch(batch, dim, seed, step, **fractions)
        z, v = flow.training_path(x, eps, t, prediction)
        along = v if tangent == "conditional" else flow.predicted_tangent(net, z, t, r)
        V = flow.implied_velocity(*flow.single_pass(net, z, t, r, along), t, r)
        loss = flow.adaptively_weighted(flow.channel_lp(V[:, None], v[:, None])).mean()
        if not loss.isfinite():
            raise FloatingPointError(
                f"loss is {loss.item()} at step {step}, {prediction}-prediction, D={dim}; lower lr"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        ema.update(net, batch, step * batch)
        rows.append(raw_losses(flow.raw_loss(V, v), moving=r < t))
    history = by_epoch(pd.DataFrame(rows), n_epochs)
    return ema.net, history.assign(prediction=prediction, dim=dim)


def raw_losses(raw: Tensor, moving: Tensor) -> dict[str, float]:
    """Mean raw loss of pairs with r = t, with r < t (`moving`), and of all pairs, for losses (B,)."""
    parts = {"raw_r_equals_t": raw[~moving], "raw_r_below_t": raw[moving], "raw": raw}
    return {name: part.mean().item() for name, part in parts.items()}


def by_epoch(steps: pd.DataFrame, n_epochs: int) -> pd.DataFrame:
    """Means of the steps of each epoch, 1 to n_epochs; column `step` is the last step of the epoch."""
    epoch = 1 + np.arange(len(steps)) * n_epochs // len(steps)
    history = steps.groupby(epoch).mean().rename_axis("epoch").reset_index()
    history.insert(0, "step", np.cumsum(np.bincount(epoch)[history["epoch"]]))
    return history


def generate(net: nn.Module, z: Tensor, nfe: int) -> Tensor:
    """Points generated from noise z (B, D) with `nfe` network evaluations."""
    return flow.sample(net, z, flow.uniform_times(nfe))


def describe(points: Tensor) -> dict[str, float]:
    """Mean distance to the torus, and p-values of the uniformity of both angles."""
    p_a, p_b = uniformity(points)
    return {"mean_distance": distance(points).mean().item(), "ks_p_a": p_a, "ks_p_b": p_b}


def table(points: Tensor, **columns: Any) -> pd.DataFrame:
    """One row per point: the given columns, angles a and b, distance, and `ring` coordinates x, y, z."""
    a, b = angles(points).T.tolist()
    x, y, z = ring(points).T.tolist()
    return pd.DataFrame({**columns, "a": a, "b": b, "distance": distance(points).tolist(), "x": x, "y": y, "z": z})


def study(
    arms: Sequence[dict],
    *,
    n_samples: int = 1000,
    nfe: Sequence[int] = (1, 2, 5, 10),
    seed: int = 0,
    **training: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train every arm, and evaluate points generated from the same noise with few and with many network evaluations.

    Arguments:
        arms: Dicts with keys prediction and dim. Points of the last arm are returned.
        n_samples: Points per arm and NFE.
        nfe: Numbers of network evaluations per point.
        seed: Seed of training and noise.
        training: Further arguments of `train`.

    Returns:
        history: Rows of `train`, arm after arm.
        samples: Rows of `table` for points of the torus and one-step points of the last arm; column source is "real"
            or "one step", prediction and dim identify the arm.
        summary: Columns prediction, dim, nfe, mean_distance, ks_p_a, ks_p_b.
    """
    histories, summary = [], []
    for arm in arms:
        net, history = train(**arm, seed=seed, **training)
        histories.append(history)
        z = seeds.noise(seed, list(range(n_samples)), (arm["dim"],))
        rows = [{**arm, "nfe": n, **describe(generate(net, z, n))} for n in nfe]
        summary += rows
        logger.info("torus, %(prediction)s-prediction, D = %(dim)d: one-step distance %(mean_distance).3f", rows[0])
    real = sample(n_samples, arm["dim"], seeds.generator("torus-real", seed))
    points = {"real": real, "one step": generate(net, z, 1)}
    samples = [table(each, source=name, **arm) for name, each in points.items()]
    return pd.concat(histories, ignore_index=True), pd.concat(samples, ignore_index=True), pd.DataFrame(summary)
