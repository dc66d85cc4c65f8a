"""3D densely connected blocks with group normalisation, bottlenecks and a dilated tail.

Reference:
    Densely connected convolutional networks (Huang et al., 2017), arXiv:1608.06993
"""

import math

import torch
from torch import Tensor, nn

GROWTH = 12


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at most 8 groups of at least 4 channels; their number divides any channel count."""
    return nn.GroupNorm(math.gcd(max(1, min(8, channels // 4)), channels), channels)


class DenseLayer(nn.Module):
    """GN-ReLU-conv1-GN-ReLU-conv3; the output of `growth` channels is appended to the input."""

    def __init__(self, channels: int, growth: int = GROWTH, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            group_norm(channels),
            nn.ReLU(),
            nn.Conv3d(channels, 4 * growth, 1, bias=False),
            group_norm(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv3d(4 * growth, growth, 3, padding=dilation, dilation=dilation, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


def dense_blocks(width: int, depth: int, n_layers: int = 2, growth: int = GROWTH) -> tuple[list[nn.Module], list[int]]:
    """Blocks of a DenseNet and their output channels; each block but the first halves the sides.

    A block is a transition (GN, ReLU, convolution of stride 2 that halves the channels) and `n_layers` dense layers;
    the last block has dilations 2, 4, ...
    """
    blocks: list[nn.Module] = []
    widths, channels = [], width
    for k in range(depth):
        layers: list[nn.Module] = []
        if k:
            halved = channels // 2
            layers = [group_norm(channels), nn.ReLU(), nn.Conv3d(channels, halved, 3, 2, padding=1, bias=False)]
            channels = halved
        for layer in range(n_layers):
            layers.append(DenseLayer(channels, growth, 2 ** (layer + 1) if k == depth - 1 else 1))
            channels += growth
        blocks.append(nn.Sequential(*layers))
        widths.append(channels)
    return blocks, widths
