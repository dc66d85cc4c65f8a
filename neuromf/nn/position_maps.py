"""Learned scale and shift at every position, after each group normalisation of a network.

Brains are aligned, so what a network must compute depends on the position. A convolution has the same weights at all
positions; a scale and a shift of its normalised inputs at each position cost almost no operations. They are zero at
initialisation, so that a trained network with new maps computes what it computed before.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuromf.nn.forward_mode import GroupNorm

NAME = "position_map"  # in the names of all parameters of this module


class PositionalGroupNorm(GroupNorm):
    """Group normalisation y, then y (1 + s) + b with maps s and b of shape (C, I, J, K)."""

    position_map_scale: nn.Parameter
    position_map_shift: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + self.position_map_scale) + self.position_map_shift


def add_position_maps(net: nn.Module, run: Callable[[], object]) -> None:
    """Give every group normalisation on a volume its maps, in place.

    Arguments:
        net: Network after `lean_forward_mode`.
        run: Calls the network once on a grid of the size that it is used with; all later inputs have that size.
    """
    norms = [module for module in net.modules() if type(module) is GroupNorm]
    shapes: dict[nn.Module, torch.Size] = {}
    hooks = [norm.register_forward_hook(lambda m, _, y: shapes.__setitem__(m, y.shape[1:])) for norm in norms]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    for norm in norms:
        if len(shapes.get(norm, ())) == 4:
            norm.__class__ = PositionalGroupNorm
            norm.position_map_scale = nn.Parameter(torch.zeros(shapes[norm]))
            norm.position_map_shift = nn.Parameter(torch.zeros(shapes[norm]))
