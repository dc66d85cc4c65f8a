"""MONAI's 3D diffusion UNet on latents, conditioned on two raw times and on voxel positions."""

from collections.abc import Callable

import torch
from einops import rearrange
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuromf.nn.embeddings import N_POSITIONS, Conditioning, positions
from neuromf.nn.forward_mode import lean_forward_mode
from neuromf.nn.position_maps import add_position_maps


class UNet(DiffusionModelUNet):
    """MONAI's diffusion UNet on patches of the latent, conditioned on two raw times and on voxel positions.

    Arguments:
        channels: Input channels C.
        widths: Channels at each resolution; each further one halves the grid.
        res_blocks: Residual blocks per resolution.
        attention: Whether each resolution has self-attention. Fused kernels have no forward-mode derivative, so
            attention is computed by plain matrix products.
        head_width: Channels per attention head.
        norm_groups: Groups of the group normalisations.
        patch: Space-to-depth factor: 2 turns 4 x 16^3 into 32 x 8^3 before the first convolution.
        conditioning: Key of `CONDITIONINGS`.
        out_channels: Output channels; C if None.
        maps: Latent grid (I, J, K) for which the network has a learned scale and shift at each position; None: no maps,
            and inputs of any size.
    """

    def __init__(
        self,
        channels: int,
        *,
        widths: tuple[int, ...],
        res_blocks: int,
        attention: tuple[bool, ...],
        head_width: int = 32,
        norm_groups: int = 16,
        patch: int = 1,
        conditioning: str = "t-h",
        out_channels: int | None = None,
        maps: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(
            spatial_dims=3,
            in_channels=channels * patch**3 + N_POSITIONS,
            out_channels=(out_channels or channels) * patch**3,
            channels=widths,
            num_res_blocks=res_blocks,
            attention_levels=attention,
            num_head_channels=head_width,
            norm_num_groups=norm_groups,
            resblock_updown=True,
            use_flash_attention=False,
        )
        self.patch = patch
        self.stride = patch * 2 ** (len(widths) - 1)
        time = Conditioning(4 * widths[0], conditioning, flow_first=True)
        self.time_embed = time  # type: ignore[assignment]  # replaces MONAI's
        lean_forward_mode(self)
        self.maps = maps
        if maps:
            zero = torch.zeros(1)
            add_position_maps(self, lambda: self(torch.zeros(1, channels, *maps), zero, zero))

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:  # type: ignore[override]  # MONAI has one time
        """Output (B, out_channels, I, J, K) for z (B, C, I, J, K) and times (B,); I, J, K are multiples of `stride`."""
        if any(n % self.stride for n in z.shape[2:]):
            raise ValueError(f"latent sizes must be multiples of {self.stride}; got {tuple(z.shape[2:])}")
        if self.maps and tuple(z.shape[2:]) != tuple(self.maps):
            raise ValueError(f"position maps are of latents {tuple(self.maps)}; got {tuple(z.shape[2:])}")
        p = self.patch
        time = self.time_embed(t, r)
        z = rearrange(z, "b c (i p) (j q) (k s) -> b (c p q s) i j k", p=p, q=p, s=p)
        grid = positions(tuple(z.shape[2:])).to(z).expand(len(z), -1, -1, -1, -1)
        z = self.conv_in(torch.cat([z, grid], dim=1))
        skips = [z]
        for down in self.down_blocks:
            z, outputs = down(hidden_states=z, temb=time)
            skips.extend(outputs)
        z = self.middle_block(hidden_states=z, temb=time)
        for up in self.up_blocks:
            n = len(up.resnets)  # type: ignore[arg-type]  # a list of blocks
            z, skips = up(hidden_states=z, res_hidden_states_list=skips[-n:], temb=time), skips[:-n]
        return rearrange(self.out(z), "b (c p q s) i j k -> b c (i p) (j q) (k s)", p=p, q=p, s=p)


class CheckpointedResnetBlock(DiffusionUNetResnetBlock):
    """MONAI's residual block, whose activations are computed again in the backward pass."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return _checkpointed(super().forward, x, emb)


class CheckpointedAttentionBlock(SpatialAttentionBlock):
    """MONAI's attention block, whose activations are computed again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return _checkpointed(super().forward, x)


CHECKPOINTED = {
    DiffusionUNetResnetBlock: CheckpointedResnetBlock,
    SpatialAttentionBlock: CheckpointedAttentionBlock,
}


def checkpoint_activations(net: nn.Module) -> nn.Module:
    """Store only the inputs of residual and attention blocks for the backward pass, in place; same values.

    It saves memory for one more forward pass per step. A pass in forward mode with gradient (`flow.single_pass`) cannot
    be repeated; use `flow.two_pass`.
    """
    for module in net.modules():
        if type(module) in CHECKPOINTED:
            module.__class__ = CHECKPOINTED[type(module)]
    return net


def _checkpointed(block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return block(*inputs)
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
