"""Weight files of the autoencoder: NVIDIA's published ones, the packaged compact one, and the study's own."""

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuromf.core.files import sha256 as file_sha256
from neuromf.vae.maisi import PUBLISHED, Architecture, MAISIVAEWrapper

logger = logging.getLogger(__name__)

PACKAGED = Path(__file__).with_name("compact_vae.safetensors")
START_LOG_STD = -3.0  # initial log posterior std: a narrow posterior lets the decoder learn before noise dominates
PUBLISHED_FILES = "autoencoder_v1.pt of nvidia/NV-Generate-CT or autoencoder_v2.pt of nvidia/NV-Generate-MR"
PUBLISHED_LICENCES = (
    "autoencoder_v1.pt is under the NVIDIA Open Model License (commercial use allowed; redistributed copies and "
    "derivatives carry the licence and its notice), autoencoder_v2.pt under the NVIDIA Non-Commercial License "
    "(research and evaluation only, derivatives included)"
)


def save_weights(vae: MAISIVAEWrapper, path: Path, *, half: bool = False) -> None:
    """Write weights, architecture and number of splits to one safetensors file, weights in float16 if `half`."""
    state = {name: (w.half() if half else w).contiguous() for name, w in vae.net.state_dict().items()}
    splits = {"num_splits": vae.num_splits} if vae.num_splits > 1 else {}
    save_file(state, path, metadata={"architecture": json.dumps(asdict(vae.architecture) | splits)})


def resolve_weights(weights: str | None, sha256: str | None = None) -> Path | None:
    """Verified file of `autoencoder.weights`: "packaged", a path, or None to train from random weights."""
    if weights is None:
        return None
    path = PACKAGED if weights == "packaged" else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"no autoencoder weights at {path} (config key autoencoder.weights; SHA-256 {sha256 or 'not given'}). "
            f"Put {PUBLISHED_FILES} there, or set autoencoder.weights to packaged or null"
        )
    if sha256 and (found := file_sha256(path)) != sha256:
        raise ValueError(
            f"{path} has SHA-256 {found}, but autoencoder.sha256 is {sha256}: it is another file or damaged"
        )
    return path


def load(path: Path, *, num_splits: int | None = None) -> MAISIVAEWrapper:
    """Frozen autoencoder from a file of `save_weights` or from published MAISI weights (.pt, wrapped or not).

    Arguments:
        num_splits: Pieces of each convolution; the number stored in the file by default.

    Raises:
        ValueError: If the file is not an autoencoder of its architecture; the message names the difference.
    """
    stored = _stored_settings(path)
    splits = stored.pop("num_splits", 1)
    vae = MAISIVAEWrapper(Architecture(**stored) if stored else PUBLISHED, num_splits=num_splits or splits)
    state = read_state(path)
    check_state(state, {name: w.shape for name, w in vae.net.state_dict().items()}, path)
    vae.net.load_state_dict({name: w.float() for name, w in state.items()})
    if path.suffix != ".safetensors":
        logger.warning("%s holds published weights and is bound to their licence: %s", path.name, PUBLISHED_LICENCES)
    return vae


def _stored_settings(path: Path) -> dict:
    """Architecture and number of splits in the metadata of a safetensors file; empty if missing."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {}).get("architecture", "{}"))
        return {**stored, "widths": tuple(stored["widths"])} if stored else {}
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({_diagnosis(path, error)})") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name, unwrapped from "unet_state_dict" if NVIDIA's file wraps them."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({_diagnosis(path, error)})") from error
    state = state.get("unet_state_dict", state) if isinstance(state, dict) else {}
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors; a MAISI autoencoder has 130 named tensors")
    return state


def _diagnosis(path: Path, error: Exception) -> str:
    """Why a file cannot be read as weights: its real type and the way out, or the reader's error."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror or error}"
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "it is empty; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; run git lfs pull, or download the file itself"
    if re.match(rb"\s*(<!doctype|<html|<\?xml)", start, re.IGNORECASE):
        return "it is a web page; download from the address of the file itself (.../resolve/main/...)"
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it is a pickle with {found[1]}, which can run code, and was not loaded; save only tensors"
    if "TorchScript" in str(error):
        return "it is a TorchScript program; save its state_dict() instead"
    if start[:1] == b"\x80":
        return "it is a pickle that is truncated or holds more than tensors, and was not loaded; save only tensors"
    return type(error).__name__


def check_state(state: dict[str, Tensor], expected: dict[str, torch.Size], path: Path) -> None:
    """Refuse a state dict whose names or shapes differ from the expected ones, or with values that are not finite."""
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} is not this autoencoder: {_network_kind(state)}expected {len(expected)} tensors, got "
            f"{len(state)}; missing {missing[:2] or 'none'}, unknown {unknown[:2] or 'none'}. "
            f"Use {PUBLISHED_FILES}, or a file written by the rule autoencoder"
        )
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise ValueError(
                f"{path} is not this autoencoder: {_network_kind(state)}{name} has shape "
                f"{tuple(state[name].shape)}, expected {tuple(shape)}"
            )
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"{path} is damaged: {name} holds values that are not finite")


def _network_kind(state: dict[str, Tensor]) -> str:
    """Start of a message that names the network of a state dict, if it is one of the usual mistakes."""
    dimensions = {weight.ndim for weight in state.values()}
    if any(name.startswith("controlnet_") for name in state):
        return "it is a ControlNet; "
    if any(name.startswith(("time_embed.", "down_blocks.", "middle_block.")) for name in state):
        return "it is a diffusion UNet, published beside the autoencoder; "
    if 4 in dimensions and 5 not in dimensions:
        return "it is a 2D network; "
    return "it is a plain MONAI autoencoder, not MAISI's; " if "encoder.blocks.0.conv.weight" in state else ""


def build_autoencoder(
    architecture: Architecture, weights: Path | None, *, seed: int, num_splits: int = 1
) -> MAISIVAEWrapper:
    """Autoencoder with stored weights, or with random weights of this architecture and seed."""
    if weights:
        vae = load(weights, num_splits=num_splits)
        if vae.architecture != architecture:
            raise ValueError(f"{weights} is {vae.architecture}; autoencoder.architecture asks for {architecture}")
        return vae
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = MAISIVAEWrapper(architecture, num_splits=num_splits)
    nn.init.constant_(vae.net.quant_conv_log_sigma.get_parameter("conv.bias"), 2 * START_LOG_STD)
    return vae


def pack(*, weights: Path, out: Path) -> None:
    """Store the study's autoencoder in float16, as the package ships it (`compact_vae.safetensors`)."""
    save_weights(load(weights), out, half=True)


def count_parameters(vae: MAISIVAEWrapper) -> dict[str, int]:
    """Number of parameters and of state-dict entries, which identify the architecture."""
    state = vae.net.state_dict()
    return {"parameters": sum(weight.numel() for weight in state.values()), "entries": len(state)}
