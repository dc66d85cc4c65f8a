"""Exponential moving average of weights, with its half-life in images."""

import copy
from typing import Any

import torch
from torch import nn


class EMA(nn.Module):
    """Exponential moving average of a network's weights, updated once per optimiser step.

    The decay follows from a half-life in images, so it means the same at any batch size, and rises
    from zero over the first updates so that the random start is forgotten (EDM2, section 3). Weights that are frozen
    are shared with the network, not copied.

    Arguments:
        net: The network to follow.
        halflife_images: Images after which a weight's share has halved.
        rampup: The half-life is never more than this share of the images seen so far.
    """

    net: Any  # of the kind of the network that is followed

    def __init__(self, net: nn.Module, *, halflife_images: float, rampup: float = 0.1) -> None:
        super().__init__()
        frozen = {id(p): p for p in net.parameters() if not p.requires_grad}
        self.net = copy.deepcopy(net, frozen).requires_grad_(False).eval()
        self.halflife_images, self.rampup = halflife_images, rampup

    def decay(self, batch: int, images_seen: int) -> float:
        """Share of the old average that is kept when `batch` images are added to `images_seen`."""
        halflife = min(self.halflife_images, self.rampup * (images_seen + batch))
        return 0.5 ** (batch / max(halflife, 1e-8))

    @torch.no_grad()
    def update(self, net: nn.Module, batch: int, images_seen: int) -> None:
        """Move the average towards the weights of net."""
        weight = 1 - self.decay(batch, images_seen)
        for average, now in zip(self.net.parameters(), net.parameters(), strict=True):
            if now.requires_grad:
                average.lerp_(now, weight)
