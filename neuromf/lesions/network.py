"""A trained flow widened to image and mask channels, with LoRA adapters."""

import copy
from typing import Any

import torch

from neuromf.lesions.prior import NO_PRIOR, ReplacedPrior, widen_prior
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora
from neuromf.nn.embeddings import N_POSITIONS
from neuromf.nn.lora import Widened


def widen(u: MeanVelocityNet, channels: int) -> MeanVelocityNet:
    """Give a trained flow of C latent channels further ones, of which it says nothing yet, in place.

    The first C channels of its output are those of the base for any values of the new ones, and the new ones are
    zero (u), or data zero (x), until the added convolutions are trained.

    Arguments:
        channels: Latent channels afterwards, image first: 8 with a mask through the autoencoder, 5 without.
    """
    if u.head:
        raise ValueError("a network with a second head cannot be widened; train the base with another tangent")
    net: Any = u.net  # what stands in MONAI's blocks is not declared
    cells = net.patch**3
    old = net.out[2].conv.out_channels // cells
    if channels <= old:
        raise ValueError(f"channels must be more than the {old} there are; got {channels}")
    blocks = (net.conv_in.conv.in_channels - N_POSITIONS) // (old * cells)  # z, or two fields that the base shows
    columns = [block * channels * cells + k for block in range(blocks) for k in range(old * cells)]
    columns += range(blocks * channels * cells, blocks * channels * cells + N_POSITIONS)
    n_in, first, last = blocks * channels * cells + N_POSITIONS, net.conv_in.conv, net.out[2].conv
    net.conv_in.conv = Widened(first, torch.tensor(columns), n_in, first.out_channels)
    net.out[2].conv = Widened(last, torch.arange(last.in_channels), last.in_channels, channels * cells)
    if u.prior is not None:
        u.prior = widen_prior(u.prior, channels)
    return u


TARGETS = {
    "attention": lora.ATTENTION,
    "convolutions": lora.CONVOLUTIONS,
    "both": f"({lora.ATTENTION}|{lora.CONVOLUTIONS})",
}


# --- the network -------------------------------------------------------------------------------------


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
    """A copy of a trained network that is widened, has adapters, and trains nothing else.

    Arguments:
        channels: Of the pairs.
        rank, alpha: Of the adapters.
        targets: The layers that get one, of `TARGETS`.
        prior: The Gaussian it starts from in place of its own; its own where None.
        seed: Of the first weights of adapters.

    Raises:
        ValueError: If targets are unknown, or the network has no Gaussian to replace.
    """
    if targets not in TARGETS:
        raise ValueError(f"adapter.targets must be one of {', '.join(TARGETS)}; got {targets!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        u = lora.inject_lora(widen(copy.deepcopy(u), channels), rank, alpha, TARGETS[targets])
    if prior is not None:
        if u.prior is None:
            raise ValueError(NO_PRIOR)
        u.prior = ReplacedPrior(u.prior, prior)  # type: ignore[assignment]  # called as either of them is
    return lora.freeze_base_unfreeze_lora(u).train()
