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

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiConvolution,
    MaisiGroupNorm3D,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "weights" / "compact_vae.safetensors"
LATENT_CHANNELS = 4
DOWNSAMPLING = 4  # voxels per latent position, along each axis
START_LOG_STD = -3.0  # a fresh posterior starts narrow: training must not begin by reading through noise
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
        return self.net.encode(self.folded(volume))

    def folded(self, volume: Tensor) -> Tensor:
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


# --- weights -----------------------------------------------------------------------------------------


def save_weights(vae: MAISIVAEWrapper, path: Path, *, half: bool = False) -> None:
    """Write weights and architecture to one safetensors file, in float16 where `half`."""
    state = {name: (w.half() if half else w).contiguous() for name, w in vae.net.state_dict().items()}
    save_file(state, path, metadata={"architecture": json.dumps(asdict(vae.architecture))})


def locate(weights: str | None, sha256: str | None = None) -> Path | None:
    """The file that `vae.weights` of the config names, verified: "packaged", a path, or None for a fresh start."""
    if weights is None:
        return None
    path = PACKAGED if weights == "packaged" else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"no autoencoder weights at {path} (config key vae.weights; SHA-256 {sha256 or 'not given'}). Take "
            f"autoencoder_v1.pt from nvidia/NV-Generate-CT or autoencoder_v2.pt from nvidia/NV-Generate-MR, "
            f"put it there, or set vae.weights to packaged or null"
        )
    if sha256:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(f"{path} has SHA-256 {found}, vae.sha256 asks for {sha256}: it is another file or damaged")
    return path


PUBLISHED_TERMS = (
    "autoencoder_v1.pt is under the NVIDIA Open Model License (commercial use allowed; whoever shares it or what was "
    "made from it adds the licence and its notice), autoencoder_v2.pt under the NVIDIA Non-Commercial License "
    "(research and evaluation only, for whatever is made from it too)"
)


def load(path: Path) -> MAISIVAEWrapper:
    """A frozen autoencoder from a file of `save_weights`, or from published MAISI weights (.pt, wrapped or not).

    Raises:
        ValueError: If the file is not an autoencoder of its architecture; the message says what differs.
    """
    architecture = _stored_architecture(path) or PUBLISHED
    vae = MAISIVAEWrapper(architecture)
    state = read_state(path)
    check_state(state, {name: w.shape for name, w in vae.net.state_dict().items()}, path)
    vae.net.load_state_dict({name: w.float() for name, w in state.items()})
    if path.suffix != ".safetensors":
        logger.warning("%s holds published weights, whose licence goes with them: %s", path.name, PUBLISHED_TERMS)
    return vae


def _stored_architecture(path: Path) -> Architecture | None:
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {}).get("architecture", "null"))
        return Architecture(**{**stored, "widths": tuple(stored["widths"])}) if stored else None
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({_instead(path, error)})") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name, unwrapped from "unet_state_dict" where NVIDIA wraps them."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({_instead(path, error)})") from error
    state = state.get("unet_state_dict", state) if isinstance(state, dict) else {}
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors; a MAISI autoencoder has 130 named tensors")
    return state


def _instead(path: Path, error: Exception) -> str:
    """What a file is that cannot be read as weights; the reader's error where it looks like weights."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror or error}"
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty; download it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file it points to; run git lfs pull, or download the file itself"
    if re.match(rb"\s*(<!doctype|<html|<\?xml)", head, re.IGNORECASE):
        return "it is a web page saved under this name; download from the file's own address (.../resolve/main/...)"
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {found[1]} beside tensors, a pickle that can run code, and was not read; save tensors alone"
    if "TorchScript" in str(error):
        return "it is a TorchScript program, not a state dict; save its state_dict() alone"
    if head[:1] == b"\x80":
        return "it is a plain pickle, cut short or with more in it than tensors, and was not read; save tensors alone"
    return type(error).__name__


def check_state(state: dict[str, Tensor], wanted: dict[str, torch.Size], path: Path) -> None:
    """Refuse weights whose names or shapes are not those wanted, with the first differences named."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{path} is not this autoencoder: {_kind(state)}wanted {len(wanted)} tensors, got {len(state)}; "
            f"missing {missing[:2] or 'none'}, unknown {extra[:2] or 'none'}. "
            f"Expected autoencoder_v1.pt of nvidia/NV-Generate-CT, autoencoder_v2.pt of nvidia/NV-Generate-MR, "
            f"or a file made by the rule vae"
        )
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise ValueError(
                f"{path} is not this autoencoder: {_kind(state)}{name} has shape {tuple(state[name].shape)}, "
                f"wanted {tuple(shape)}"
            )
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"{path} is damaged: {name} holds values that are not finite")


def _kind(state: dict[str, Tensor]) -> str:
    """What a state dict is of, where it is one of the usual mistakes, in words that go before the differences."""
    dimensions = {weight.ndim for weight in state.values()}
    if any(name.startswith("controlnet_") for name in state):
        return "it is a ControlNet; "
    if any(name.startswith(("time_embed.", "down_blocks.", "middle_block.")) for name in state):
        return "it is a diffusion UNet, published beside the autoencoder; "
    if 4 in dimensions and 5 not in dimensions:
        return "it is a 2D network; "
    if "encoder.blocks.0.conv.weight" in state:
        return "it is an autoencoder of MONAI's plain layout, not MAISI's; "
    return ""


def initial(architecture: Architecture, weights: Path | None, *, seed: int) -> MAISIVAEWrapper:
    """The autoencoder a study starts from: stored weights, or random ones of this architecture and seed."""
    if weights:
        vae = load(weights)
        if vae.architecture != architecture:
            raise ValueError(f"{weights} is {vae.architecture}; the study asks for {architecture}")
        return vae
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = MAISIVAEWrapper(architecture)
    nn.init.constant_(vae.net.quant_conv_log_sigma.get_parameter("conv.bias"), 2 * START_LOG_STD)
    return vae


def size(vae: MAISIVAEWrapper) -> dict[str, int]:
    """Numbers of parameters and of entries of the state dict: what tells one architecture from another."""
    state = vae.net.state_dict()
    return {"parameters": sum(weight.numel() for weight in state.values()), "entries": len(state)}
