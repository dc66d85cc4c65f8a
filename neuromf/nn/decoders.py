"""Decoders from a latent vector to a volume: transposed or resize convolutions, and the spatial broadcast decoder.

The last layer is a convolution without non-linearity, since z-scored intensities are unbounded.

Reference:
    Spatial broadcast decoder (Watters et al., 2019), arXiv:1901.07017
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuromf.nn.resnet3d import group_norm, halvings, run_block

CONVOLUTIONAL, BROADCAST = (8, 4, 2, 1, 1), (4, 2, 1, 0.5)  # widths of the x2 stages at 128^3, in units of b
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


class Stages(nn.Module):
    """x2 stages from the width `start`, then a convolution to C channels."""

    def __init__(self, start: int, widths: Sequence[int], channels: int, upsample: str, checkpointing: bool) -> None:
        super().__init__()
        pairs = zip([start, *widths], widths, strict=False)
        self.blocks = nn.ModuleList(upsampling_stage(inputs, outputs, upsample) for inputs, outputs in pairs)
        self.last = nn.Conv3d([start, *widths][-1], channels, 3, padding=1)
        self.checkpointing = checkpointing

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = run_block(block, h, self.checkpointing and self.training)
        return self.last(h)


def stage_widths(widths: Sequence[float], width: int, depth: int) -> tuple[int, list[int]]:
    """Width before the first stage and widths of the last `depth` stages of the full decoder."""
    full = [max(LEAST, round(width * factor)) for factor in (8, *widths)]
    if not 1 <= depth < len(full):
        raise ValueError(f"the decoder has 1 to {len(widths)} stages; got model.decoder_depth {depth}")
    return full[-depth - 1], full[-depth:]


class ConvDecoder(nn.Module):
    """Volume (B, C, I, J, K) of z (B, d): a linear layer to a small map, 4^3 at 128^3, then x2 stages.

    Arguments:
        depth: Number of x2 stages; by default as many as leave a map of at least 3^3, at most 5.
        upsample: "deconv" or "resize_conv".
    """

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
        depth = depth or halvings(roi_size, 3, len(CONVOLUTIONAL))
        if any(side % 2**depth for side in roi_size):
            raise ValueError(f"data.roi_size must be multiples of 2^{depth} (model.decoder_depth); got {roi_size}")
        start, widths = stage_widths(CONVOLUTIONAL, width, depth)
        self.map_shape = (start, *(side >> depth for side in roi_size))
        self.linear = nn.Linear(z_dim, torch.Size(self.map_shape).numel())
        self.stages = Stages(start, widths, channels, upsample, checkpointing)

    def forward(self, z: Tensor) -> Tensor:
        return self.stages(self.linear(z).unflatten(1, self.map_shape))


class BroadcastDecoder(nn.Module):
    """Volume of z (B, d): z at every cell of a grid, 8^3 at 128^3, beside three coordinates; then resize convolutions.

    `coordinates` (1, 3, D, H, W) are in [-1, 1]; channel 0 varies along D, channel 1 along H, channel 2 along W.
    """

    coordinates: Tensor

    def __init__(
        self,
        channels: int,
        z_dim: int,
        roi_size: Sequence[int],
        *,
        width: int = 32,
        depth: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth = depth or halvings(roi_size, 6, len(BROADCAST)) or 1
        start, widths = stage_widths(BROADCAST, width, depth)
        axes = [torch.linspace(-1, 1, side >> depth) for side in roi_size]
        self.register_buffer("coordinates", torch.stack(torch.meshgrid(*axes, indexing="ij"))[None])
        self.mix = nn.Conv3d(z_dim + 3, start, 1)
        self.stages = Stages(start, widths, channels, "resize_conv", checkpointing)

    def broadcast(self, z: Tensor) -> Tensor:
        """z at every cell of the grid, and the coordinates of the cell: (B, d + 3, D, H, W)."""
        grid = self.coordinates.expand(len(z), -1, -1, -1, -1).to(z.dtype)
        return torch.cat([z[:, :, None, None, None].expand(-1, -1, *grid.shape[2:]), grid], dim=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.stages(self.mix(self.broadcast(z)))
