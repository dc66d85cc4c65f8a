"""Weights of the autoencoder: NVIDIA's published files, the packaged compact one, and the study's own."""

import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuromf.vae.maisi import PUBLISHED, Architecture, MAISIVAEWrapper

logger = logging.getLogger(__name__)

PACKAGED = Path(__file__).with_name("compact_vae.safetensors")
START_LOG_STD = -3.0  # a fresh posterior starts narrow: training must not begin by reading through noise


# --- weights -----------------------------------------------------------------------------------------


def save_weights(vae: MAISIVAEWrapper, path: Path, *, half: bool = False) -> None:
    """Write weights and architecture to one safetensors file, in float16 where `half`."""
    state = {name: (w.half() if half else w).contiguous() for name, w in vae.net.state_dict().items()}
    save_file(state, path, metadata={"architecture": json.dumps(asdict(vae.architecture))})


def resolve_weights(weights: str | None, sha256: str | None = None) -> Path | None:
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


def build_autoencoder(architecture: Architecture, weights: Path | None, *, seed: int) -> MAISIVAEWrapper:
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


def count_parameters(vae: MAISIVAEWrapper) -> dict[str, int]:
    """Numbers of parameters and of entries of the state dict: what tells one architecture from another."""
    state = vae.net.state_dict()
    return {"parameters": sum(weight.numel() for weight in state.values()), "entries": len(state)}
