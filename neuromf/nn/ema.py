"""Exponential moving average of a network's weights, with a half-life in images."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Exponential moving average of the weights of a network, updated once per optimiser step.

    A half-life in images makes the decay independent of the batch size. The decay rises from zero during the first
    updates, so that the random initial weights are forgotten (EDM2, section 3). Frozen weights are shared, not copied,
    and so are modules without weights that have buffers, such as a prior: they remain on the device of `net`.

    The average is float32: in bfloat16 an update below 1/256 of a weight is rounded away, and an update is about 1e-5.

    Arguments:
        net: Network to average.
        halflife_images: Images after which the influence of a weight value has halved.
        rampup: Upper bound of the half-life as a fraction of the images seen so far.
        host: Whether the average remains in host memory when the module moves to a GPU.
    """

    net: Any  # same class as the averaged network

    def __init__(self, net: nn.Module, *, halflife_images: float, rampup: float = 0.1, host: bool = False) -> None:
        super().__init__()
        shared: dict[int, Any] = {id(p): p for p in net.parameters() if not p.requires_grad}
        shared |= {id(module): module for module in net.modules() if _is_constant(module)}
        self.net = copy.deepcopy(net, shared).requires_grad_(False).eval()
        self.halflife_images, self.rampup, self.host = halflife_images, rampup, host

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EMA":
        """Move to another device or precision, unless the average is in host memory."""
        return self if self.host else super()._apply(fn, recurse)

    def decay(self, batch: int, images_seen: int) -> float:
        """Weight of the old average in an update with `batch` images after `images_seen`."""
        halflife = min(self.halflife_images, self.rampup * (images_seen + batch))
        return 0.5 ** (batch / max(halflife, 1e-8))

    @torch.no_grad()
    def update(self, net: nn.Module, batch: int, images_seen: int) -> None:
        """Move the average towards the weights of `net`."""
        weight = 1 - self.decay(batch, images_seen)
        for average, current in zip(self.net.parameters(), net.parameters(), strict=True):
            if current.requires_grad:
                average.lerp_(current.to(average.device), weight)


def _is_constant(module: nn.Module) -> bool:
    """Whether a module has buffers and no weights."""
    return any(True for _ in module.buffers()) and not any(True for _ in module.parameters())
