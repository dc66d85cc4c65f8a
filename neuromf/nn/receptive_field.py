"""Receptive field of a chain of 3D convolutions: closed form, and footprint of the gradient.

The receptive field is 1 + sum_l (k_l - 1) d_l prod_{i<l} s_i voxels for kernels k, dilations d and strides s.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def main_path(net: nn.Module) -> list[nn.Conv3d]:
    """Convolutions of a network in order, without those of shortcuts, whose field is never the larger one."""
    found = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv3d)]
    return [module for name, module in found if "shortcut" not in name]


def receptive_field(convolutions: Iterable[nn.Conv3d]) -> int:
    """Receptive field in voxels per axis of a chain of convolutions with cubic kernels."""
    field, step = 1, 1
    for conv in convolutions:
        field += (conv.kernel_size[0] - 1) * conv.dilation[0] * step
        step *= conv.stride[0]
    return field


def gradient_footprint(features: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Extent in voxels per axis of the inputs that reach the central unit of a feature map.

    Computed on a copy with positive weights and without normalisation: group normalisation couples all positions, and
    a random weight or a closed ReLU could hide one.

    Arguments:
        features: Module from a volume (1, 1, I, J, K) to a feature map (1, C, I', J', K').
        shape: Sides of the volume; larger than the field, or the footprint ends at its border.
    """
    net = _replace_norms(copy.deepcopy(features)).double()
    for parameter in net.parameters():
        parameter.data = parameter.data.abs() + 1e-3
    volume = torch.ones(1, 1, *shape, dtype=torch.double, requires_grad=True)
    unit: Tensor = net(volume).sum(1)[0]
    unit[tuple(n // 2 for n in unit.shape)].backward()
    assert volume.grad is not None
    reached = (volume.grad[0, 0] != 0).nonzero()
    i, j, k = (reached.max(0).values - reached.min(0).values + 1).tolist()
    return i, j, k


def _replace_norms(net: nn.Module) -> nn.Module:
    """The network with every group normalisation replaced by the identity, in place."""
    is_norm: Callable[[nn.Module], bool] = lambda module: isinstance(module, nn.GroupNorm)  # noqa: E731
    for name, child in net.named_children():
        setattr(net, name, nn.Identity() if is_norm(child) else _replace_norms(child))
    return net
