"""3D residual network with group normalisation that encodes a volume into mean and log-variance of a latent vector."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MAX_DEPTH = 4  # residual stages of the full network: 128^3 becomes 8^3
SMALLEST = {"moments": 8}  # voxels per side of the last map by pooling, 3 for others: positions need a finer map


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 8 groups, fewer below 32 channels: groups of one channel would be InstanceNorm."""
    return nn.GroupNorm(max(1, min(8, channels // 4)), channels)


def halvings(roi_size: Sequence[int], smallest: int, most: int) -> int:
    """Number of times that all sides of a region of interest can be halved, at most `most`, to at least `smallest`."""
    n = 0
    while n < most and all(side % 2 ** (n + 1) == 0 and side >> (n + 1) >= smallest for side in roi_size):
        n += 1
    return n


def checked_depth(roi_size: Sequence[int], depth: int | None, smallest: int, most: int) -> int:
    """Number of stages that halve or double all sides: `depth`, or as many as leave maps of `smallest` voxels per side.

    Raises:
        ValueError: If there are more than `most` stages, or sides are no multiples of 2^depth.
    """
    depth = depth or max(1, halvings(roi_size, smallest, most))
    if depth > most or any(side % 2**depth for side in roi_size):
        raise ValueError(
            f"data.roi_size must be multiples of 2^{depth} with 1 to {most} stages (model.encoder_depth, "
            f"model.decoder_depth); got {tuple(roi_size)}"
        )
    return depth


class ResidualBlock(nn.Module):
    """conv-GN-ReLU-conv-GN, add the input, ReLU; the shortcut is 1x1x1 convolution and GN if the shape changes.

    Arguments:
        dilations: Dilations of the two convolutions.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        first, second = dilations
        self.body = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, padding=first, dilation=first, bias=False),
            group_norm(outputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=second, dilation=second, bias=False),
            group_norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), group_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet10_blocks(width: int, depth: int) -> tuple[list[nn.Module], list[int]]:
    """Blocks of a ResNet-10 and their output channels: one residual block per stage, widths b, 2b, 4b, 8b.

    Each block but the first halves the sides; the convolutions of the last have dilations 2 and 4.
    """
    widths = [width * 2**k for k in range(depth)]
    blocks: list[nn.Module] = []
    for k, (inputs, outputs) in enumerate(zip([width, *widths], widths, strict=False)):
        blocks.append(ResidualBlock(inputs, outputs, 2 if k else 1, (2, 4) if k == depth - 1 else (1, 1)))
    return blocks, widths


class SpatialMoments(nn.Module):
    """ln of the mean and centre of mass of every channel: (B, 4 C) of a map (B, C, I, J, K) that is not negative.

    A channel that responds to a tumour gives its size and its position wherever it lies; a linear layer on the
    flattened map must learn every position from examples. Coordinates are in [-1, 1].

    References:
        End-to-end training of deep visuomotor policies (Levine et al., 2016), JMLR 17:1: expected positions of channels
    """

    least = 1e-3  # activation that stands for none

    def forward(self, h: Tensor) -> Tensor:
        h = h.float()
        axes = [torch.linspace(-1, 1, side, device=h.device) for side in h.shape[2:]]
        grid = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], 1)
        weights = h.flatten(2) + self.least
        total = weights.sum(2, keepdim=True)
        centres = (weights / total) @ grid
        return torch.cat([(total / len(grid)).log().squeeze(2), centres.flatten(1)], 1)


class ResNetEncoder(nn.Module):
    """Mean and log-variance (B, d) of a volume (B, C, I, J, K).

    A convolution of stride 2, then stages of two residual blocks with widths b, 2b, 4b, 8b and strides 1, 2, 2, 2.

    Arguments:
        channels: Input channels C.
        z_dim: Latent dimensions d.
        roi_size: Sides I, J, K.
        width: Width b of the first stage.
        depth: Number of stages; by default at most 4, fewer for small volumes: the last map has at least 3 voxels per
            side, with pool "moments" 8.
        pool: "flatten" keeps positions of the last map, "gap" averages over them, "moments": `SpatialMoments`.
        narrow: Channels of a 1x1x1 convolution before flattening, which shrinks the two heads; None for none.
        checkpointing: Recompute activations of each block in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        z_dim: int,
        roi_size: Sequence[int],
        *,
        width: int = 32,
        depth: int | None = None,
        pool: str = "flatten",
        narrow: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth = checked_depth(roi_size, depth, SMALLEST.get(pool, 3), MAX_DEPTH)
        self.checkpointing = checkpointing
        self.stem = nn.Sequential(
            nn.Conv3d(channels, width, 3, 2, padding=1, bias=False), group_norm(width), nn.ReLU(inplace=True)
        )
        widths = [width * 2**k for k in range(depth)]
        blocks = []
        for k, (inputs, outputs) in enumerate(zip([width, *widths], widths, strict=False)):
            blocks += [ResidualBlock(inputs, outputs, 2 if k else 1), ResidualBlock(outputs, outputs)]
        self.blocks = nn.ModuleList(blocks)
        last, cells = widths[-1], 1
        for side in roi_size:
            cells *= side >> depth
        self.pool: nn.Module = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
        n_features = last
        if pool == "flatten":
            squeeze = nn.Conv3d(last, narrow, 1) if narrow else nn.Identity()
            self.pool, n_features = nn.Sequential(squeeze, nn.Flatten()), (narrow or last) * cells
        elif pool == "moments":
            self.pool, n_features = SpatialMoments(), 4 * last
        elif pool != "gap":
            raise ValueError(f"model.encoder_pool must be flatten, gap or moments; got {pool!r}")
        self.mu, self.logvar = nn.Linear(n_features, z_dim), nn.Linear(n_features, z_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.pool(run_blocks(self.blocks, self.stem(x), self.checkpointing and self.training))
        return self.mu(features), self.logvar(features)


def run_blocks(blocks: Iterable[nn.Module], h: Tensor, checkpointing: bool) -> Tensor:
    """Output of consecutive blocks, whose activations are recomputed in the backward pass with `checkpointing`."""
    for block in blocks:
        h = run_block(block, h, checkpointing)
    return h


def run_block(block: nn.Module, h: Tensor, checkpointing: bool) -> Tensor:
    """Output of a block, whose activations are recomputed in the backward pass with `checkpointing`."""
    return checkpoint(block, h, use_reentrant=False) if checkpointing else block(h)  # type: ignore[return-value]


def add_spectral_norm(net: nn.Module) -> None:
    """Divide the weight of every convolution by its largest singular value; linear layers are unchanged."""
    for module in list(net.modules()):
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.utils.parametrizations.spectral_norm(module)
