r"""Start from published rectified-flow weights: the network of MAISI-v2, converted to `UNet`.

The published network is conditioned on the timestep 1000 t, acts on latents multiplied by `SCALE_FACTOR` and predicts
x - eps. Ours is conditioned on raw times, acts on unscaled latents and predicts v = eps - x. `convert` is the only
place where sign, scale, time and layout change.

Convolutions, normalisations and attention are converted exactly: given the published time embedding, the converted
network equals the published one up to sign and scale, at one spacing and one modality. Not converted are

- the time network: at 1000 t its phases dominate du/dt (see `embeddings`). A new one is trained from random weights
  around the mean over time of the published embedding of the modality;
- the choice of spacing and modality, and guidance by omitting the modality.

Our latents are normalised per channel, which no single factor reproduces: the weights are a start for training, not a
sampler. The noise of the converted network has standard deviation 1 / SCALE_FACTOR.

References:
    MAISI-v2: Accelerated 3D High-Resolution Medical Image Synthesis with Rectified Flow and Region-specific
    Contrastive Loss (Zhao et al., 2025), arXiv:2508.05772. Its network is MONAI's DiffusionModelUNetMaisi,
    its path MONAI's RFlowScheduler
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor

from neuromf.core.files import sha256 as sha256_of
from neuromf.nn import position_maps
from neuromf.nn.embeddings import N_POSITIONS
from neuromf.nn.unet import UNet
from neuromf.vae.weights import read_state

SCALE_FACTOR = 0.96240234375  # factor of the latents that the published networks were trained on
TIMESTEPS = 1000  # published timestep of t = 1
SPACING_FACTOR = 100  # the published spacing input is 100 times the spacing in mm
NORM_GROUPS = HEAD_WIDTH = 32  # of the published networks; not visible in the shapes of the weights
SOURCES = (
    "diff_unet_3d_rflow-mr-brain_v1.pt of nvidia/NV-Generate-MR-Brain, diff_unet_3d_rflow-mr.pt of "
    "nvidia/NV-Generate-MR or diff_unet_3d_rflow-ct.pt of nvidia/NV-Generate-CT"
)
CLASSES, SPACING = "class_embedding.weight", "spacing_layer"
START = "time_embed.embeddings.0.layers.2.bias"  # our bias that is initialised with the mean published embedding


def load_rectified(
    unet: UNet,
    path: str | Path,
    *,
    modality: int | None,
    spacing_mm: tuple[float, float, float] | None,
    sha256: str | None = None,
) -> list[str]:
    """Initialise a network with published weights, in place; returns the parameters that stay freshly initialised.

    The network is changed only if the entire file fits. The weights of the position channels become zero. A velocity
    head gets the weights of the first head, since u = v at r = t.

    Arguments:
        unet: Network with patch 1 and the widths, res_blocks and attention of the file.
        path: State dict of DiffusionModelUNetMaisi (.pt), plain or under "unet_state_dict" beside "scale_factor".
        modality: Published modality number (29: skull-stripped T1), None for a network without modalities.
        spacing_mm: Voxel size of the volumes in mm, None for a network without spacing input.
        sha256: Expected SHA-256 of the file; None: not verified.

    Raises:
        FileNotFoundError: If the file is missing; the message names its source.
        ValueError: If the file is damaged or another one, or does not fit the network, modality or spacing.
    """
    path = Path(path)
    _check_file(path, sha256)
    _check_network(unet)
    state = _read(path)
    _check_state(state, _published_shapes(unet, state), path)
    _check_conditioning(state, modality, spacing_mm, path)
    heads = unet.out_channels // (unet.in_channels - N_POSITIONS)
    converted = convert(state, modality, spacing_mm, heads=heads, scale_factor=read_scale_factor(path))
    unet.load_state_dict({**unet.state_dict(), **converted})
    return [name for name, _ in unet.named_parameters() if name not in converted]


def read_scale_factor(path: Path) -> float:
    """Latent scale factor in a checkpoint; 1 for a plain state dict, which does not contain it."""
    stored = torch.load(path, map_location="cpu", weights_only=True) if path.suffix != ".safetensors" else {}
    if "scale_factor" not in stored:
        return 1.0
    if (found := float(stored["scale_factor"])) != SCALE_FACTOR:
        raise ValueError(f"{path} has scale_factor {found}, expected {SCALE_FACTOR}; use a checkpoint as published")
    return found


def convert(
    state: dict[str, Tensor],
    modality: int | None,
    spacing_mm: tuple[float, float, float] | None,
    *,
    heads: int = 1,
    scale_factor: float = 1.0,
) -> dict[str, Tensor]:
    r"""Weights of `UNet` by name, from those of the published network.

    - Sign: the last convolution is negated, and repeated for each output head.
    - Scale: for a factor s the network becomes f(s z) / s: s is folded into the first convolution, 1 / s into the last.
    - Time: the time network is dropped; `START` becomes the mean of its output over t.
    - Positions: the first convolution gets zero weights for the position channels, after the latent channels.
    - Spacing: blocks add W silu([e, s]) + b of time embedding e and spacing embedding s. As silu acts elementwise,
      this is W_e silu(e) + b' with b' = b + W_s silu(s) for a fixed s.
    """
    dropped = ("time_embed.", f"{SPACING}.", CLASSES)
    new = {name: w for name, w in state.items() if not name.startswith(dropped)}
    new["conv_in.conv.weight"] = F.pad(scale_factor * new["conv_in.conv.weight"].double(), (0,) * 6 + (0, N_POSITIONS))
    for name in ("out.2.conv.weight", "out.2.conv.bias"):
        new[name] = -torch.cat([new[name].double() / scale_factor] * heads)
    new[START] = mean_embedding(state, modality)
    if spacing_mm is not None:
        spacing = F.silu(_two_layers(state, SPACING, SPACING_FACTOR * torch.tensor(spacing_mm, dtype=torch.float64)))
        for name in [name for name in new if name.endswith("time_emb_proj.weight")]:
            of_time, of_spacing = new[name].split(len(spacing), dim=1)
            bias = name.replace("weight", "bias")
            new[name], new[bias] = of_time, new[bias] + of_spacing.double() @ spacing
    return new


def mean_embedding(state: dict[str, Tensor], modality: int | None) -> Tensor:
    """Mean over t in [0, 1] of the published embedding of time and modality, float64, shape (width,)."""
    timesteps = TIMESTEPS * torch.linspace(0, 1, TIMESTEPS + 1)
    sinusoids = get_timestep_embedding(timesteps, state["time_embed.0.weight"].shape[1])
    mean = _two_layers(state, "time_embed", sinusoids.double()).mean(0)
    return mean if modality is None else mean + state[CLASSES][modality]


def _two_layers(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Output of the published two-layer embedding `name` at x (..., n), float64."""
    hidden = F.linear(x, state[f"{name}.0.weight"].double(), state[f"{name}.0.bias"].double())
    return F.linear(F.silu(hidden), state[f"{name}.2.weight"].double(), state[f"{name}.2.bias"].double())


def _check_file(path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no rectified-flow weights at {path}: download {SOURCES} to this path")
    if sha256 and (found := sha256_of(path)) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}: it is another file or damaged")


def _check_network(unet: UNet) -> None:
    expected = f"patch=1, norm_groups={NORM_GROUPS}, head_width={HEAD_WIDTH}"
    found = f"patch={unet.patch}, norm_groups={unet.out[0].num_groups}, head_width={unet.num_head_channels[-1]}"
    if found != expected:
        raise ValueError(f"published rectified-flow weights need a UNet with {expected}; got {found}")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_state(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or contains no named tensors; expected {SOURCES}") from error


def _published(name: str) -> bool:
    """Whether a parameter of `UNet` has the name of a published one."""
    return not name.startswith("time_embed.") and position_maps.NAME not in name


def _published_shapes(unet: UNet, state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published network that fits `unet`, with the spacing and modality inputs of `state`."""
    first, channels = unet.block_out_channels[0], unet.in_channels - N_POSITIONS
    width = 4 * first
    shapes = {name: tuple(w.shape) for name, w in unet.state_dict().items() if _published(name)}
    shapes["conv_in.conv.weight"] = (first, channels, 3, 3, 3)
    shapes |= {"out.2.conv.weight": (channels, first, 3, 3, 3), "out.2.conv.bias": (channels,)}
    embeddings = {"time_embed": first} | ({SPACING: 3} if f"{SPACING}.0.weight" in state else {})
    for name, n in embeddings.items():
        shapes |= {f"{name}.0.weight": (width, n), f"{name}.2.weight": (width, width)}
        shapes |= {f"{name}.0.bias": (width,), f"{name}.2.bias": (width,)}
    for name in [name for name in shapes if name.endswith("time_emb_proj.weight")]:
        shapes[name] = (shapes[name][0], len(embeddings) * width)
    return shapes | ({CLASSES: (*state[CLASSES].shape[:1], width)} if CLASSES in state else {})


def _check_state(state: dict[str, Tensor], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit this network: expected {len(expected)} tensors, got {len(state)}; missing "
            f"{missing[:2] or 'none'}, unknown {extra[:2] or 'none'}. Expected {SOURCES}, and a UNet with its "
            f"res_blocks, attention and number of widths"
        )
    for name, shape in expected.items():
        if (found := tuple(state[name].shape)) != shape:
            raise ValueError(
                f"{path} does not fit this network: {name} has shape {found}, expected {shape}. Give the UNet the "
                f"latent channels and widths of the file"
            )
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"{path} is damaged: {name} has values that are not finite")


def _check_conditioning(
    state: dict[str, Tensor], modality: int | None, spacing_mm: tuple[float, ...] | None, path: Path
) -> None:
    modalities = range(len(state[CLASSES])) if CLASSES in state else [None]
    if modality not in modalities:
        expected = f"from 0 to {len(modalities) - 1}" if CLASSES in state else "None (no modality input)"
        raise ValueError(f"modality must be {expected} for {path}; got {modality!r}")
    takes_spacing = f"{SPACING}.0.weight" in state
    valid = spacing_mm is None or (len(spacing_mm) == 3 and min(spacing_mm) > 0)
    if takes_spacing != (spacing_mm is not None) or not valid:
        expected = "three positive numbers in mm" if takes_spacing else "None (no spacing input)"
        raise ValueError(f"spacing_mm must be {expected} for {path}; got {spacing_mm!r}")
