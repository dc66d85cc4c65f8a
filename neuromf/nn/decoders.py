"""Decoders from a latent vector to a volume: transposed or resize convolutions, and the spatial broadcast decoder.

The last layer is a convolution without non-linearity, since z-scored intensities are unbounded.

Reference:
    Spatial broadcast decoder (Watters et al., 2019), arXiv:1901.07017
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuromf.nn.resnet3d import checked_depth, group_norm, run_blocks

LEAST = 8  # channels of a stage


def upsampling_stage(inputs: int, outputs: int, upsample: str) -> nn.Sequential:
    """Doubles all sides: transposed convolution (k4, s2, p1), or nearest-neighbour resize and convolution; GN, ReLU."""
    if upsample == "deconv":
        layers: list[nn.Module] = [nn.ConvTranspose3d(inputs, outputs, 4, 2, padding=1)]
    elif upsample == "resize_conv":
        layers = [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv3d(inputs, outputs, 3, padding=1)]
    else:
        raise ValueError(f"model.upsample must be deconv or resize_conv; got {upsample!r}")
    return nn.Sequential(*layers, group_norm(outputs), nn.ReLU(inplace=True))


class ConvDecoder(nn.Module):
    """Volume (B, C, I, J, K) of z (B, d): a linear layer to a small map, 4^3 at 128^3, x2 stages, a convolution.

    Arguments:
        channels: Output channels C.
        z_dim: Latent dimensions d.
        roi_size: Sides I, J, K.
        width: Unit b of the widths of stages.
        depth: Number of x2 stages; by default as many as leave a small map of at least 3^3.
        upsample: "deconv" or "resize_conv".
        checkpointing: Recompute activations of each stage in the backward pass.
    """

    widths: tuple[float, ...] = (8, 4, 2, 1, 1)  # of the x2 stages at 128^3, in units of b; 8 before the first
    smallest = 3  # voxels per side of the small map

    def __init__(
        self,
        channels: int,
        z_dim: int,
        roi_size: Sequence[int],
        *,
        width: int = 32,
        depth: int | None = None,
        upsample: str = "deconv",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth = checked_depth(roi_size, depth, self.smallest, len(self.widths))
        used = [max(LEAST, round(width * factor)) for factor in (8, *self.widths)][-depth - 1 :]
        self.add_first_layer(z_dim, used[0], [side >> depth for side in roi_size])
        pairs = zip(used, used[1:], strict=False)
        self.blocks = nn.ModuleList(upsampling_stage(inputs, outputs, upsample) for inputs, outputs in pairs)
        self.last = nn.Conv3d(used[-1], channels, 3, padding=1)
        self.checkpointing = checkpointing

    def add_first_layer(self, z_dim: int, channels: int, sides: Sequence[int]) -> None:
        """Set up `first_map`."""
        self.map_shape = (channels, *sides)
        self.linear = nn.Linear(z_dim, torch.Size(self.map_shape).numel())

    def first_map(self, z: Tensor) -> Tensor:
        """Small map of z."""
        return self.linear(z).unflatten(1, self.map_shape)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(run_blocks(self.blocks, self.first_map(z), self.checkpointing and self.training))


class BroadcastDecoder(ConvDecoder):
    """Volume of z (B, d): z at every cell of a grid, 8^3 at 128^3, beside three coordinates; then resize convolutions.

    `coordinates` (1, 3, D, H, W) are in [-1, 1]; channel 0 varies along D, channel 1 along H, channel 2 along W.
    """

    coordinates: Tensor
    widths = (4, 2, 1, 0.5)
    smallest = 6

    def __init__(self, *sizes: Any, upsample: str = "resize_conv", **options: Any) -> None:
        super().__init__(*sizes, upsample="resize_conv", **options)  # whatever `upsample` is

    def add_first_layer(self, z_dim: int, channels: int, sides: Sequence[int]) -> None:
        """Set up `first_map`."""
        axes = [torch.linspace(-1, 1, side) for side in sides]
        self.register_buffer("coordinates", torch.stack(torch.meshgrid(*axes, indexing="ij"))[None])
        self.mix = nn.Conv3d(z_dim + 3, channels, 1)

    def broadcast(self, z: Tensor) -> Tensor:
        """z at every cell of the grid, and the coordinates of the cell: (B, d + 3, D, H, W)."""
        grid = self.coordinates.expand(len(z), -1, -1, -1, -1).to(z.dtype)
        return torch.cat([z[:, :, None, None, None].expand(-1, -1, *grid.shape[2:]), grid], dim=1)

    def first_map(self, z: Tensor) -> Tensor:
        """Small map of z and coordinates."""
        return self.mix(self.broadcast(z))
