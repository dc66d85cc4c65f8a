"""The frozen autoencoder between volumes and latents: MAISI's, published or compact.

A volume (B, 1, I, J, K) in [0, 1] becomes the posterior mean and standard deviation of a latent
(B, 4, I/4, J/4, K/4), and back. Latents are MONAI's own, unscaled: the 0.96240234375 of NVIDIA's
diffusion checkpoints belongs to their diffusion model and is applied nowhere here; each study
normalises latents by its own per-channel statistics (`latents.py`).

The compact layout is the same MONAI class behind a 2x space-to-depth, so that no convolution runs at full
resolution: about ten times faster on a CPU at the same contract.

References:
    MAISI: Medical AI for Synthetic Imaging (Guo et al., 2024), arXiv:2409.11169
"""

import logging
from dataclasses import dataclass

import torch
from einops import rearrange
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiConvolution,
    MaisiGroupNorm3D,
)
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LATENT_CHANNELS = 4
DOWNSAMPLING = 4  # voxels per latent position, along each axis
MAX_SPLITS, MIN_PIECE = 16, 3  # pieces of a convolution, and latent positions in each that MONAI's overlap needs
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Architecture:
    """What the network is made of; `patch` is the space-to-depth factor in front of the first convolution."""

    patch: int = 1
    widths: tuple[int, ...] = (64, 128, 256)
    res_blocks: int = 2
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if (factor := self.patch * 2 ** (len(self.widths) - 1)) != DOWNSAMPLING:
            raise ValueError(
                f"patch {self.patch} with {len(self.widths)} widths downsamples {factor}x; latents are "
                f"{DOWNSAMPLING}x: use patch 1 with 3 widths or patch 2 with 2"
            )


PUBLISHED = Architecture()  # 20,944,897 parameters in 130 tensors
COMPACT = Architecture(patch=2, widths=(32, 64), res_blocks=1, norm_groups=16)
ARCHITECTURES = {"published": PUBLISHED, "compact": COMPACT}


class MAISIVAEWrapper(nn.Module):
    """Frozen autoencoder with posterior moments out and latents in.

    Arguments:
        architecture: The layout; weights are random until `load_weights`.
        num_splits: Pieces in which MONAI computes a convolution, to save memory at 256^3 and beyond.
            More than one fails on small or odd sizes, so 1 unless memory forbids.
    """

    def __init__(self, architecture: Architecture = PUBLISHED, *, num_splits: int = 1) -> None:
        super().__init__()
        self.architecture = architecture
        depth = architecture.patch**3
        self.net = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=depth,
            out_channels=depth,
            latent_channels=LATENT_CHANNELS,
            num_channels=architecture.widths,
            num_res_blocks=[architecture.res_blocks] * len(architecture.widths),
            norm_num_groups=architecture.norm_groups,
            norm_eps=1e-6,
            attention_levels=[False] * len(architecture.widths),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            norm_float16=False,
            num_splits=num_splits,
            dim_split=1,
            save_mem=False,
        )
        _use_native_group_norm(self.net)
        _use_one_kernel(self.net)
        self.num_splits = num_splits
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def split(self, num_splits: int, side: int) -> None:
        """Compute every convolution in so many pieces along the second axis, `side` latent positions long.

        Results differ by about 1e-6 from those in one piece.

        Raises:
            ValueError: If MONAI's pieces would be unequal or shorter than their overlap: it fails there, or returns
                another shape.
        """
        if num_splits > 1 and (side % num_splits or side // num_splits < MIN_PIECE):
            raise ValueError(
                f"{side} latent positions cannot be computed in {num_splits} pieces: each needs the same whole number, "
                f"at least {MIN_PIECE}"
            )
        self.num_splits = num_splits
        for module in self.net.modules():
            if isinstance(module, MaisiConvolution):
                module.num_splits = num_splits

    def encode(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation (B, 4, I/4, J/4, K/4) of volumes (B, 1, I, J, K) in [0, 1]."""
        if volume.ndim != 5 or volume.shape[1] != 1 or any(n % DOWNSAMPLING for n in volume.shape[2:]):
            wanted = f"(B, 1, I, J, K) with I, J, K multiples of {DOWNSAMPLING}"
            raise ValueError(f"volumes must have shape {wanted}; got {tuple(volume.shape)}: crop or pad them first")
        return self.net.encode(self.space_to_depth(volume))

    def space_to_depth(self, volume: Tensor) -> Tensor:
        """Volumes (B, 1, I, J, K) as the first convolution takes them: space to depth, where the layout has patches."""
        p = self.architecture.patch
        return rearrange(volume, "b c (i p) (j q) (k s) -> b (c p q s) i j k", p=p, q=p, s=p)

    def decode(self, latent: Tensor) -> Tensor:
        """Volumes (B, 1, 4I, 4J, 4K) of latents (B, 4, I, J, K); not clipped to [0, 1]."""
        if latent.ndim != 5 or latent.shape[1] != LATENT_CHANNELS:
            raise ValueError(f"latents must have shape (B, {LATENT_CHANNELS}, I, J, K); got {tuple(latent.shape)}")
        p = self.architecture.patch
        return rearrange(self.net.decode(latent), "b (c p q s) i j k -> b c (i p) (j q) (k s)", p=p, q=p, s=p)

    def reconstruct(self, volume: Tensor) -> Tensor:
        """Decoded posterior mean of volumes (B, 1, I, J, K)."""
        return self.decode(self.encode(volume)[0])


def _use_native_group_norm(net: nn.Module) -> None:
    """Replace MONAI's group-by-group normalisation by torch's own: same weights, 1e-6 apart, far faster."""
    for module in net.modules():
        if isinstance(module, MaisiGroupNorm3D):
            module.__class__ = nn.GroupNorm  # type: ignore[assignment]  # its own parent


class _Convolution(nn.Conv3d):
    """`nn.Conv3d` that takes oneDNN's kernel for a single small volume too, where torch alone takes its slow one.

    With one kernel for every batch size, latents are the same bytes whatever the batch, on a CPU. torch's own choice
    depends on batch and threads; for one small volume on one thread it is also half as fast.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not plain or learning or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        sizes = (self.padding, self.stride, self.dilation, self.groups)
        return torch.mkldnn_convolution(x, self.weight, self.bias, *sizes)  # type: ignore[arg-type]  # no padding by word


def _use_one_kernel(net: nn.Module) -> None:
    """Replace torch's choice of kernels by oneDNN's, where torch was built with it: same weights, 1e-6 apart."""
    if torch.backends.mkldnn.is_available():
        for module in net.modules():
            if type(module) is nn.Conv3d and module.padding_mode == "zeros":
                module.__class__ = _Convolution


def evaluate(vae: MAISIVAEWrapper, way: str, x: Tensor, *, precision: str = "float32") -> tuple[Tensor, ...]:
    """What an autoencoder makes of x, as float32 on the CPU: (mean, std) to "encode", (volume,) to "decode".

    Where memory runs out, convolutions are computed in twice as many pieces from there on, up to 16.

    Arguments:
        precision: "float32", or "bf16": convolutions in bfloat16, about 1 % off.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    while True:
        try:
            with torch.no_grad(), torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"):
                out = getattr(vae, way)(x.to(vae.device))
            return tuple(part.float().cpu() for part in (out if isinstance(out, tuple) else (out,)))
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        _split_further(vae, x.shape[3] // DOWNSAMPLING if way == "encode" else x.shape[3])


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _split_further(vae: MAISIVAEWrapper, side: int) -> None:
    n = 2 * vae.num_splits
    try:
        if n > MAX_SPLITS:
            raise ValueError(f"{MAX_SPLITS} pieces are the most")
        vae.split(n, side)
    except ValueError as error:
        raise MemoryError(f"out of memory, in smaller pieces it cannot be computed ({error}): give it more") from error
    if vae.device.type == "cuda":
        torch.cuda.empty_cache()
    logger.warning("out of memory: convolutions go on in %d pieces (results differ by about 1e-6)", n)
