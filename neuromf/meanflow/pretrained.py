r"""A start from published rectified-flow weights: MAISI-v2's network in the layout and conventions of `nets.UNet`.

The published network is told the timestep 1000 t, with the data at 0 and the noise at 1000, and gives x - eps. Ours
is told raw times and gives v = eps - x. `convert` is the one place where sign, time and layout change.

Convolutions, normalisations and attention carry over exactly: given the published time embedding, the converted
network is the published one with its sign turned, at the one spacing and modality chosen. Not carried over are

- the time network: fed 1000 t, its du/dt would drown (see `nets`). The new one is told raw times and learns anew;
  it starts with random weights around the mean over time of the published embedding of the modality.
- the scale of latents: published ones are z * scale_factor, one number for all channels (0.962 in rflow-mr), ours
  have mean 0 and standard deviation 1 per channel. Weights are not corrected for it, so they are a start to train
  from and no sampler.
- the choice of spacing and modality, and guidance by leaving the modality out.

References:
    MAISI-v2: Accelerated 3D High-Resolution Medical Image Synthesis with Rectified Flow and Region-specific
    Contrastive Loss (Zhao et al., 2025), arXiv:2508.05772. Its network is MONAI's DiffusionModelUNetMaisi,
    its path MONAI's RFlowScheduler
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor

from neuromf.nn.embeddings import N_POSITIONS
from neuromf.nn.unet import UNet
from neuromf.vae.weights import read_state

TIMESTEPS = 1000  # published timestep of t = 1
SPACING_FACTOR = 100  # published networks are told 100 times the spacing in mm
NORM_GROUPS = HEAD_WIDTH = 32  # of the published networks; no tensor has a shape that would tell
SOURCES = (
    "diff_unet_3d_rflow-mr-brain_v1.pt of nvidia/NV-Generate-MR-Brain, diff_unet_3d_rflow-mr.pt of "
    "nvidia/NV-Generate-MR or diff_unet_3d_rflow-ct.pt of nvidia/NV-Generate-CT"
)
CLASSES, SPACING = "class_embedding.weight", "spacing_layer"
START = "time_embed.embeddings.0.layers.2.bias"  # ours: what the first time embedding varies around


def load_rectified(
    unet: UNet,
    path: str | Path,
    *,
    modality: int | None,
    spacing_mm: tuple[float, float, float] | None,
    sha256: str | None = None,
) -> list[str]:
    """Start a network from published weights, in place, and name the parameters that keep their fresh values.

    It is changed only if the whole file fits. Weights of the position channels become zero. A second head starts
    as the first, since u and v are the same at r = t.

    Arguments:
        unet: Has patch 1 and the widths, res_blocks and attention of the file; its output is taken as u, or u and v.
        path: A state dict of DiffusionModelUNetMaisi (.pt), plain or under "unet_state_dict".
        modality: Published number of the kind of image (29: skull-stripped T1), None for a network without kinds.
        spacing_mm: Voxel size of the volumes in mm, None for a network that is not told it.
        sha256: Digest that the file must have, in hexadecimal.

    Raises:
        FileNotFoundError: If there is no file; the message says where to get it.
        ValueError: If the file is another or damaged, or the network, modality or spacing does not fit it.
    """
    path = Path(path)
    _check_file(path, sha256)
    _check_network(unet)
    state = _read(path)
    _check_state(state, _published_shapes(unet, state), path)
    _check_choices(state, modality, spacing_mm, path)
    known = convert(state, modality, spacing_mm, heads=unet.out_channels // (unet.in_channels - N_POSITIONS))
    unet.load_state_dict({**unet.state_dict(), **known})
    return [name for name, _ in unet.named_parameters() if name not in known]


# --- conversion --------------------------------------------------------------------------------------


def convert(
    state: dict[str, Tensor], modality: int | None, spacing_mm: tuple[float, float, float] | None, heads: int = 1
) -> dict[str, Tensor]:
    r"""Weights of `nets.UNet` by name from those of the published network: sign, time and layout.

    - Sign: the last convolution is negated, and repeated for each head.
    - Time: the time network is dropped; `START` becomes the mean of its output over t.
    - Positions: the first convolution gets zeros for them, after the channels of the latent.
    - Spacing: blocks add W silu([e, s]) + b of time embedding e and spacing embedding s. Since silu acts on each
      element, this is W_e silu(e) + b', with b' = b + W_s silu(s) for a fixed s.
    """
    inlets = ("time_embed.", f"{SPACING}.", CLASSES)
    known = {name: w for name, w in state.items() if not name.startswith(inlets)}
    known["conv_in.conv.weight"] = F.pad(known["conv_in.conv.weight"], (0,) * 6 + (0, N_POSITIONS))
    for name in ("out.2.conv.weight", "out.2.conv.bias"):
        known[name] = -torch.cat([known[name]] * heads)
    known[START] = mean_embedding(state, modality)
    if spacing_mm is not None:
        told = F.silu(_two_layers(state, SPACING, SPACING_FACTOR * torch.tensor(spacing_mm, dtype=torch.float64)))
        for name in [name for name in known if name.endswith("time_emb_proj.weight")]:
            of_time, of_spacing = known[name].split(len(told), dim=1)
            bias = name.replace("weight", "bias")
            known[name], known[bias] = of_time, known[bias] + of_spacing.double() @ told
    return known


def mean_embedding(state: dict[str, Tensor], modality: int | None) -> Tensor:
    """Mean over t in [0, 1] of the published embedding of time and modality, float64, with shape (width,)."""
    timesteps = TIMESTEPS * torch.linspace(0, 1, TIMESTEPS + 1)
    sinusoids = get_timestep_embedding(timesteps, state["time_embed.0.weight"].shape[1])
    mean = _two_layers(state, "time_embed", sinusoids.double()).mean(0)
    return mean if modality is None else mean + state[CLASSES][modality]


def _two_layers(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The published embedding network of this name at x (..., n), in float64."""
    hidden = F.linear(x, state[f"{name}.0.weight"].double(), state[f"{name}.0.bias"].double())
    return F.linear(F.silu(hidden), state[f"{name}.2.weight"].double(), state[f"{name}.2.bias"].double())


# --- what is refused ---------------------------------------------------------------------------------


def _check_file(path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no rectified-flow weights at {path}: take {SOURCES} and put it there")
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, asked for is {sha256}: it is another file or damaged")


def _check_network(unet: UNet) -> None:
    wanted = f"patch=1, norm_groups={NORM_GROUPS}, head_width={HEAD_WIDTH}"
    found = f"patch={unet.patch}, norm_groups={unet.out[0].num_groups}, head_width={unet.num_head_channels[-1]}"
    if found != wanted:
        raise ValueError(f"published rectified-flow weights need a UNet with {wanted}; got {found}")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_state(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or holds no named tensors; expected {SOURCES}") from error


def _published_shapes(unet: UNet, state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published network that fits, with a spacing or modality input where state has one."""
    first, channels = unet.block_out_channels[0], unet.in_channels - N_POSITIONS
    width = 4 * first
    shapes = {name: tuple(w.shape) for name, w in unet.state_dict().items() if not name.startswith("time_embed.")}
    shapes["conv_in.conv.weight"] = (first, channels, 3, 3, 3)
    shapes |= {"out.2.conv.weight": (channels, first, 3, 3, 3), "out.2.conv.bias": (channels,)}
    inlets = {"time_embed": first} | ({SPACING: 3} if f"{SPACING}.0.weight" in state else {})
    for name, n in inlets.items():
        shapes |= {f"{name}.0.weight": (width, n), f"{name}.2.weight": (width, width)}
        shapes |= {f"{name}.0.bias": (width,), f"{name}.2.bias": (width,)}
    for name in [name for name in shapes if name.endswith("time_emb_proj.weight")]:
        shapes[name] = (shapes[name][0], len(inlets) * width)
    return shapes | ({CLASSES: (*state[CLASSES].shape[:1], width)} if CLASSES in state else {})


def _check_state(state: dict[str, Tensor], wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit this network: wanted {len(wanted)} tensors, got {len(state)}; missing "
            f"{missing[:2] or 'none'}, unknown {extra[:2] or 'none'}. Expected {SOURCES}, and a UNet of its "
            f"res_blocks, attention and number of widths"
        )
    for name, shape in wanted.items():
        if (found := tuple(state[name].shape)) != shape:
            raise ValueError(
                f"{path} does not fit this network: {name} has shape {found}, wanted {shape}. Give the UNet the "
                f"latent channels and widths of the file"
            )
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"{path} is damaged: {name} holds values that are not finite")


def _check_choices(
    state: dict[str, Tensor], modality: int | None, spacing_mm: tuple[float, ...] | None, path: Path
) -> None:
    kinds = range(len(state[CLASSES])) if CLASSES in state else [None]
    if modality not in kinds:
        wanted = f"from 0 to {len(kinds) - 1}" if CLASSES in state else "None, as this network is not told it"
        raise ValueError(f"modality must be {wanted} for {path}; got {modality!r}")
    told = f"{SPACING}.0.weight" in state
    if told != (spacing_mm is not None) or (spacing_mm is not None and (len(spacing_mm) != 3 or min(spacing_mm) <= 0)):
        wanted = "three positive numbers in mm" if told else "None, as this network is not told it"
        raise ValueError(f"spacing_mm must be {wanted} for {path}; got {spacing_mm!r}")
