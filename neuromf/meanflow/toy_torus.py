r"""A toy with known answers: MeanFlow on a torus, whose distance and angles are read off exactly.

The Clifford torus is a pair of unit circles, (cos a, sin a, cos b, sin b) in R^4, with both angles uniform.
A fixed orthonormal map carries it into R^D, D >= 4. A generated point is right when it lies on both circles
and in their subspace (`distance`), and the set of points is right when both angles are uniform (`uniformity`).
Points have shape (B, D), lengths are in units of the circles' radius, angles in radians.

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

log = logging.getLogger(__name__)

# --- the manifold ------------------------------------------------------------------------------------


@cache
def basis(dim: int) -> Tensor:
    """The four orthonormal directions that span the torus in R^dim, float64, with shape (dim, 4)."""
    if dim < 4:
        raise ValueError(f"the torus needs at least 4 dimensions; got dim={dim}")
    normal = torch.randn(dim, 4, generator=seeds.generator("torus-basis", dim), dtype=torch.float64)
    return torch.linalg.qr(normal).Q


def embed(points: Tensor, dim: int) -> Tensor:
    """Points of R^4, with shape (B, 4), as points of R^dim, with shape (B, dim); lengths are kept."""
    return points @ basis(dim).to(points).T


def unembed(points: Tensor) -> Tensor:
    """Coordinates in the plane pair of the circles, with shape (B, 4), of points with shape (B, D)."""
    return points @ basis(points.shape[1]).to(points)


def sample(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """n uniform points of the torus in R^dim, float64, with shape (n, dim)."""
    a, b = 2 * math.pi * torch.rand(2, n, generator=generator, dtype=torch.float64)
    return embed(torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], dim=1), dim)


def distance(points: Tensor) -> Tensor:
    r"""Euclidean distance in R^D from each point to the torus, with shape (B,).

    .. math:: d^2 = (\rho_a - 1)^2 + (\rho_b - 1)^2 + \|p - Q Q^T p\|^2

    where the rho are the radii in the two planes of the circles and Q their basis.
    """
    inside = unembed(points)
    outside = points - embed(inside, points.shape[1])
    radii = torch.stack([inside[:, :2].norm(dim=1), inside[:, 2:].norm(dim=1)], dim=1)
    return ((radii - 1).square().sum(1) + outside.square().sum(1)).sqrt()


def angles(points: Tensor) -> Tensor:
    """Angles a and b of each point, in [-pi, pi], with shape (B, 2)."""
    inside = unembed(points)
    return torch.stack([torch.atan2(inside[:, 1], inside[:, 0]), torch.atan2(inside[:, 3], inside[:, 2])], dim=1)


def uniformity(points: Tensor) -> tuple[float, float]:
    """p-values of the Kolmogorov-Smirnov test of each angle against the uniform law."""
    share = (angles(points).double().cpu().numpy() + math.pi) / (2 * math.pi)
    first, second = (float(kstest(column, "uniform").pvalue) for column in share.T)
    return first, second


def ring(points: Tensor) -> Tensor:
    """Points seen in R^3, with shape (B, 3): the torus becomes the ring whose tube, of radius 1, circles at 2.

    (p1, p2, p3, p4) goes to ((2 + p3) p1, (2 + p3) p2, p4), so points off the torus are seen off the ring.
    """
    p1, p2, p3, p4 = unembed(points).T
    return torch.stack([(2 + p3) * p1, (2 + p3) * p2, p4], dim=1)


# --- training ----------------------------------------------------------------------------------------


def draw_batch(n: int, dim: int, seed: int, step: int, **shares: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data x, noise eps and times t, r of one training step, float32; equal seeds and steps draw equal batches."""
    chance = seeds.generator("torus", seed, step)
    x = sample(n, dim, chance)
    eps = torch.randn(n, dim, generator=chance, dtype=torch.float64)
    t, r = flow.draw_times(n, chance, **shares)
    return x.float(), eps.float(), t.float(), r.float()


def new_net(dim: int, prediction: str, *, width: int, depth: int, seed: int) -> MeanVelocityNet:
    """An untrained MLP, its weights drawn from seed without disturbing anyone else's chance."""
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
    """The averaged network after n_steps of MeanFlow on fresh points of the torus, and its losses.

    Adaptively weighted; Adam with a cosine to zero. With the conditional tangent the noise of v enters the loss of
    pairs with r < t, which may rise while the field improves, and the more so the larger D is; with the predicted
    one it has no such part, and neither has that of pairs with r = t.

    Arguments:
        dim: Dimension of the space around the torus.
        prediction: What the network gives, "u" or "x".
        tangent: "predicted" for u(z, t, t) in the derivative, "conditional" for v = eps - x.
        halflife_steps: Half-life of the weight average, in optimiser steps.
        fraction_r_equals_t: Share of plain flow-matching pairs in each batch, as in `flow.draw_times`.
        fraction_corner: Share of pairs in the corner where one-step sampling happens, likewise.
        n_epochs: Rows of the history; the data are endless, so an epoch is just n_steps / n_epochs steps.

    Returns:
        The network u(z, t, r), and one row per epoch with columns step, epoch, prediction, dim and the
        mean squared errors per dimension, unweighted: raw_r_equals_t, raw_r_below_t and raw (of all pairs).

    Raises:
        FloatingPointError: At the first step whose loss is not finite.
    """
    net = new_net(dim, prediction, width=width, depth=depth, seed=seed)
    ema = EMA(net, halflife_images=halflife_steps * batch)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    shares = {"fraction_r_equals_t": fraction_r_equals_t, "fraction_corner": fraction_corner}
    rows = []
    for step in range(n_steps):
        x, eps, t, r = draw_batch(batch, dim, seed, step, **shares)
        z, v = flow.training_path(x, eps, t, prediction)
        along = v if tangent == "conditional" else flow.predicted_tangent(net, z, t, r)
        V = flow.implied_velocity(*flow.single_pass(net, z, t, r, along), t, r)
        loss = flow.adaptively_weighted(flow.channel_lp(V[:, None], v[:, None])).mean()
        if not loss.isfinite():
            raise FloatingPointError(
                f"loss is {loss.item()} at step {step} of the arm {prediction}-prediction, D={dim}"
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
    """Mean of the raw losses (B,) over pairs with r = t, with r < t, and over all of them."""
    parts = {"raw_r_equals_t": raw[~moving], "raw_r_below_t": raw[moving], "raw": raw}
    return {name: part.mean().item() for name, part in parts.items()}


def by_epoch(steps: pd.DataFrame, n_epochs: int) -> pd.DataFrame:
    """One row per epoch, 1 to n_epochs: the means of its steps, and in column step how many were done by its end."""
    epoch = 1 + np.arange(len(steps)) * n_epochs // len(steps)
    history = steps.groupby(epoch).mean().rename_axis("epoch").reset_index()
    history.insert(0, "step", np.cumsum(np.bincount(epoch)[history["epoch"]]))
    return history


# --- the study ---------------------------------------------------------------------------------------


def generate(net: nn.Module, z: Tensor, evaluations: int) -> Tensor:
    """Points from noise z, with shape (B, D), in the given number of network evaluations."""
    return flow.sample(net, z, flow.uniform_times(evaluations))


def describe(points: Tensor) -> dict[str, float]:
    """Mean distance to the torus and the two p-values of its angles' uniformity."""
    p_a, p_b = uniformity(points)
    return {"mean_distance": distance(points).mean().item(), "ks_p_a": p_a, "ks_p_b": p_b}


def table(points: Tensor, **columns: Any) -> pd.DataFrame:
    """One row per point: the columns given, angles a and b, distance, and place x, y, z in the `ring` view."""
    a, b = angles(points).T.tolist()
    x, y, z = ring(points).T.tolist()
    return pd.DataFrame({**columns, "a": a, "b": b, "distance": distance(points).tolist(), "x": x, "y": y, "z": z})


def study(
    arms: Sequence[dict],
    *,
    n_samples: int = 1000,
    evaluations: Sequence[int] = (1, 2, 5, 10),
    seed: int = 0,
    **training: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train every arm and measure what it draws from the same noise in few and in many evaluations.

    Arguments:
        arms: Dicts with keys prediction and dim. The last is the main arm, whose points are kept.
        n_samples: Points drawn per arm and number of evaluations.
        evaluations: Network evaluations per point, one row of the summary each.
        training: Further arguments of `train`.

    Returns:
        history: The rows of `train`, arm after arm.
        samples: The rows of `table` for real points and for one-evaluation points of the main arm, told
            apart by column source ("real" or "one step"); prediction and dim name the arm.
        summary: Columns prediction, dim, evaluations, mean_distance, ks_p_a, ks_p_b.
    """
    histories, summary = [], []
    for arm in arms:
        net, history = train(**arm, seed=seed, **training)
        histories.append(history)
        z = seeds.noise(seed, list(range(n_samples)), (arm["dim"],))
        for n in evaluations:
            summary.append({**arm, "evaluations": n, **describe(generate(net, z, n))})
        log.info("torus, %(prediction)s, D = %(dim)d: distance %(mean_distance).3f", summary[-len(evaluations)])
    real = sample(n_samples, arm["dim"], seeds.generator("torus-real", seed))
    points = {"real": real, "one step": generate(net, z, 1)}
    samples = [table(each, source=name, **arm) for name, each in points.items()]
    return pd.concat(histories, ignore_index=True), pd.concat(samples, ignore_index=True), pd.DataFrame(summary)
