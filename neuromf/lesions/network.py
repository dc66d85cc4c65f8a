"""Trained velocity network, widened to the channels of image and mask and equipped with LoRA adapters."""

import copy
from typing import Any

import torch

from neuromf.lesions.prior import NO_PRIOR, ReplacedPrior, widen_prior
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora
from neuromf.nn.embeddings import N_POSITIONS

TARGETS = {
    "attention": lora.ATTENTION,
    "convolutions": lora.CONVOLUTIONS,
    "both": f"({lora.ATTENTION}|{lora.CONVOLUTIONS})",
}


def add_adapters(
    u: MeanVelocityNet,
    channels: int,
    *,
    rank: int,
    alpha: float,
    targets: str,
    prior: GaussianPrior | None = None,
    seed: int = 0,
) -> MeanVelocityNet:
    """Widened copy of a trained network, whose adapters and added convolutions are its only trainable parts.

    Arguments:
        channels: Number of latent channels of pairs, image and mask together.
        rank: LoRA rank.
        alpha: Numerator of the factor alpha / rank of adapter outputs.
        targets: Layers with adapters: attention, convolutions or both.
        prior: Prior of pairs, which replaces the prior of the network; None keeps the latter.
        seed: Seed of the initial adapter weights.

    Raises:
        ValueError: If targets are unknown, or the network has no prior to replace.
    """
    if targets not in TARGETS:
        raise ValueError(f"adapter.targets must be one of {', '.join(TARGETS)}; got {targets!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        u = lora.inject_lora(widen(copy.deepcopy(u), channels), rank, alpha, TARGETS[targets])
    if prior is not None:
        if u.prior is None:
            raise ValueError(NO_PRIOR)
        u.prior = ReplacedPrior(u.prior, prior)  # type: ignore[assignment]  # same methods as a GaussianPrior
    return lora.freeze_base_unfreeze_lora(u).train()


def widen(u: MeanVelocityNet, channels: int) -> MeanVelocityNet:
    """Add latent channels to a trained network, in place.

    The output in the first C channels equals that of the base network for any values of the added channels. Until the
    added convolutions are trained, the network predicts zero (u) or zero data (x) in the added channels.

    Arguments:
        channels: Number of latent channels after widening, image first.
    """
    if u.velocity_head:
        raise ValueError("a network with a velocity head cannot be widened; train the base run with another tangent")
    net: Any = u.net  # MONAI does not declare the types inside its blocks
    cells = net.patch**3
    old = net.out[2].conv.out_channels // cells
    if channels <= old:
        raise ValueError(f"channels must be more than the {old} of the base network; got {channels}")
    blocks = (net.conv_in.conv.in_channels - N_POSITIONS) // (old * cells)  # inputs: z, or two fields with a prior
    columns = [block * channels * cells + k for block in range(blocks) for k in range(old * cells)]
    columns += range(blocks * channels * cells, blocks * channels * cells + N_POSITIONS)
    n_in, first, last = blocks * channels * cells + N_POSITIONS, net.conv_in.conv, net.out[2].conv
    net.conv_in.conv = lora.WidenedConv(first, torch.tensor(columns), n_in, first.out_channels)
    net.out[2].conv = lora.WidenedConv(last, torch.arange(last.in_channels), last.in_channels, channels * cells)
    if u.prior is not None:
        u.prior = widen_prior(u.prior, channels)
    return u
