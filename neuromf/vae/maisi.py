"""The frozen MAISI autoencoder between volumes and latents: NVIDIA's published network or a compact one.

`encode` maps a volume (B, 1, I, J, K) in [0, 1] to the mean and standard deviation of a Gaussian posterior over
latents (B, 4, I/4, J/4, K/4); `decode` maps latents to volumes. Latents are unscaled: each study normalises them by
its own channel statistics (`vae.statistics`), and the scale factor of NVIDIA's diffusion checkpoint applies only to
that checkpoint (`SCALE_FACTOR` in `meanflow.pretrained`).

The compact network is the same MONAI class behind a 2x space-to-depth: no convolution runs at full resolution, and
encoding is about ten times faster on a CPU.

References:
    MAISI: Medical AI for Synthetic Imaging (Guo et al., 2024), arXiv:2409.11169
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D
from torch import Tensor, nn

LATENT_CHANNELS = 4
DOWNSAMPLING = 4  # voxels per latent position along each axis
MIN_SPLIT = 3  # latent positions per piece of a split convolution: the overlap that MONAI adds needs them
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Architecture:
    """Size of the autoencoder.

    Arguments:
        patch: Space-to-depth factor before the first convolution.
        widths: Channels of each resolution level.
        res_blocks: Residual blocks per level.
        norm_groups: Groups of each group normalisation.
    """

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
    """Frozen autoencoder with random weights; `vae.weights.load` returns one with stored weights.

    Arguments:
        architecture: Size of the network.
        num_splits: Pieces in which MONAI computes each convolution, along the second axis (`autoencoder.num_splits`).
            More pieces need less memory; results differ by about 1e-6.
    """

    def __init__(self, architecture: Architecture = PUBLISHED, *, num_splits: int = 1) -> None:
        super().__init__()
        self.architecture, self.num_splits = architecture, num_splits
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
        _use_native_kernels(self.net)
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation (B, 4, I/4, J/4, K/4) of volumes (B, 1, I, J, K) in [0, 1]."""
        if volume.ndim != 5 or volume.shape[1] != 1 or any(n % DOWNSAMPLING for n in volume.shape[2:]):
            allowed = f"(B, 1, I, J, K) with I, J, K multiples of {DOWNSAMPLING}"
            raise ValueError(f"volumes must have shape {allowed}; got {tuple(volume.shape)}: crop or pad them first")
        self._check_splits(volume.shape[3] // DOWNSAMPLING)
        return self.net.encode(self.space_to_depth(volume))

    def space_to_depth(self, volume: Tensor) -> Tensor:
        """Input of the first convolution (B, p^3, I/p, J/p, K/p) for volumes (B, 1, I, J, K) and patch size p."""
        p = self.architecture.patch
        return rearrange(volume, "b c (i p) (j q) (k s) -> b (c p q s) i j k", p=p, q=p, s=p)

    def decode(self, latent: Tensor) -> Tensor:
        """Volumes (B, 1, 4I, 4J, 4K) of latents (B, 4, I, J, K); not clipped to [0, 1]."""
        if latent.ndim != 5 or latent.shape[1] != LATENT_CHANNELS:
            raise ValueError(f"latents must have shape (B, {LATENT_CHANNELS}, I, J, K); got {tuple(latent.shape)}")
        self._check_splits(latent.shape[3])
        p = self.architecture.patch
        return rearrange(self.net.decode(latent), "b (c p q s) i j k -> b c (i p) (j q) (k s)", p=p, q=p, s=p)

    def freeze_encoder(self) -> None:
        """Leave the encoder, and so all latents, out of the training."""
        for part in (self.net.encoder, self.net.quant_conv_mu, self.net.quant_conv_log_sigma):
            part.requires_grad_(False)

    def reconstruct(self, volume: Tensor) -> Tensor:
        """Decoded posterior mean of volumes (B, 1, I, J, K)."""
        return self.decode(self.encode(volume)[0])

    def _check_splits(self, side: int) -> None:
        """Refuse splits of `side` latent positions for which MONAI fails or returns another shape."""
        n = self.num_splits
        if n > 1 and (side % n or side // n < MIN_SPLIT):
            raise ValueError(
                f"{side} latent positions along the second axis cannot be split into {n} pieces: "
                f"autoencoder.num_splits must be 1 or divide {side} into pieces of at least {MIN_SPLIT}"
            )


class _Convolution(nn.Conv3d):
    """`nn.Conv3d` that always uses the oneDNN kernel on a CPU, without gradients.

    PyTorch chooses the kernel by batch size and number of threads. With one kernel, a latent has the same bytes in
    any batch, and a single small volume takes half the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        training = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not plain or training or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        sizes = (self.padding, self.stride, self.dilation, self.groups)
        return torch.mkldnn_convolution(x, self.weight, self.bias, *sizes)  # type: ignore[arg-type]  # padding is a tuple


def _use_native_kernels(net: nn.Module) -> None:
    """Replace MONAI's group normalisation by PyTorch's and convolutions by oneDNN's: faster, differences of 1e-6."""
    for module in net.modules():
        if isinstance(module, MaisiGroupNorm3D):
            module.__class__ = nn.GroupNorm  # type: ignore[assignment]  # its parent class
        elif type(module) is nn.Conv3d and module.padding_mode == "zeros" and torch.backends.mkldnn.is_available():
            module.__class__ = _Convolution


def encode_safely(vae: MAISIVAEWrapper, volume: Tensor, *, precision: str = "float32") -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation of volumes (B, 1, I, J, K), float32 on the CPU, without gradients.

    Arguments:
        volume: Intensities in [0, 1] on any device.
        precision: "float32", or "bf16" for convolutions in bfloat16 (error about 1 %).

    Raises:
        MemoryError: If memory does not suffice; the message names the config key that reduces it.
    """
    with _inference(vae, precision):
        mean, std = vae.encode(volume.to(vae.device))
    return mean.float().cpu(), std.float().cpu()


def decode_safely(vae: MAISIVAEWrapper, latent: Tensor, *, precision: str = "float32") -> Tensor:
    """Volumes (B, 1, 4I, 4J, 4K) of latents (B, 4, I, J, K), float32 on the CPU; otherwise as `encode_safely`."""
    with _inference(vae, precision):
        volume = vae.decode(latent.to(vae.device))
    return volume.float().cpu()


@contextmanager
def _inference(vae: MAISIVAEWrapper, precision: str) -> Iterator[None]:
    """No gradients, convolutions in `precision`, and a MemoryError that names the way out."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    try:
        with torch.no_grad(), torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        raise MemoryError(
            f"the autoencoder ran out of memory on {vae.device}: set autoencoder.num_splits to {2 * vae.num_splits} "
            f"(now {vae.num_splits}; pieces of each convolution), or reduce volumes.shape"
        ) from error
