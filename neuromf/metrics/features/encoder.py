"""Features of volumes from the encoder of an autoencoder: the study's own, or one that is frozen for evaluation.

A study's own encoder changes with its autoencoder, and distances in its features with it. `frozen_encoder` is the
encoder of the compact autoencoder that neuromf packaged until November 2026, of simulated participants of seed 0. It is
kept for evaluation only: no training reads it.

Posterior means carry little information on texture; the residual blocks of the encoder carry much.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (Zhang et al., 2018), arXiv:1801.03924
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiResBlock
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from neuromf.core import parallel
from neuromf.metrics.features.hashing import FeatureHashing
from neuromf.metrics.images.spectral import as_volumes
from neuromf.vae.maisi import COMPACT, MAISIVAEWrapper

FROZEN = Path(__file__).with_name("encoder.safetensors")
CELLS = 4  # cells of a volume along each axis; channels are summarised per cell
FLOOR = 0.1  # smallest unit, as a fraction of the median unit: nearly constant channels would be amplified


class Autoencoder(Protocol):
    """The parts of an autoencoder that are used here."""

    net: Any

    def space_to_depth(self, volume: Tensor) -> Tensor: ...


class Encoder:
    """Moments of the encoder's channels, standardised and projected to n features.

    For the last residual block of each resolution and for the posterior mean, each channel gives its mean, standard
    deviation and root mean square slope in each of CELLS³ cells of the volume. The last two are not linear in the
    activations and measure texture. Each of the three moments of a channel is divided by its standard deviation over
    training volumes, so that no block dominates. The moments are projected to n features (`hashing.py`), each with a
    variance of about 1 between participants.

    Arguments:
        vae: Frozen autoencoder.
        scale: Centre and unit of the moments, see `calibrate`.
        n: Number of features.
        seed: Seed of the random projection.
    """

    def __init__(self, vae: Autoencoder, scale: NDArray, *, n: int = 512, seed: int = 0) -> None:
        self.vae, (self.centre, self.unit) = vae, torch.from_numpy(scale)
        self.project = FeatureHashing(self.centre.numel(), n=n, seed=seed)

    def __call__(self, volume: Tensor) -> dict[str, Tensor]:
        """Features (1, n) of one volume (I, J, K)."""
        z = (moments(self.vae, volume) - self.centre) / self.unit
        return {"": self.project(z.flatten())[None]}


@cache
def frozen_encoder() -> MAISIVAEWrapper:
    """The encoder that is frozen for evaluation; its decoder is empty."""
    vae = MAISIVAEWrapper(COMPACT)
    net: Any = vae.net  # MONAI declares the types of its blocks
    net.decoder, net.post_quant_conv = nn.Identity(), nn.Identity()
    net.load_state_dict({name: weight.float() for name, weight in load_file(FROZEN).items()})
    return vae.requires_grad_(False).eval()


def calibrate(vae: Autoencoder, train: NDArray) -> NDArray:
    """Centre and unit of the `moments` of training volumes (N, I, J, K): (2, channels, 3, CELLS³), float32."""
    train = as_volumes(train, "calibration")
    if len(train) < 4:
        raise ValueError(f"calibration needs at least 4 volumes, better 32; got {len(train)}")
    found = torch.stack(parallel.map_in_threads(lambda volume: moments(vae, as_tensor(volume)), train))
    return torch.stack(torch.broadcast_tensors(found.mean(0), unit(found))).numpy()


def as_tensor(volume: NDArray) -> Tensor:
    """A volume as float32; always a copy, because arrays may be reversed views or read-only."""
    return torch.from_numpy(np.array(volume, np.float32, order="C"))


def moments(vae: Autoencoder, volume: Tensor) -> Tensor:
    """Moments of each channel in each cell of a volume (I, J, K): (channels, 3, CELLS³)."""
    net, x, parts, last = vae.net, vae.space_to_depth(volume[None, None]), [], residual_blocks(vae)
    for block in net.encoder.blocks:
        x = block(x)
        if block in last:
            parts.append(cell_moments(x, CELLS)[0])
    return torch.cat([*parts, cell_moments(net.quant_conv_mu(x), CELLS)[0]])


def residual_blocks(vae: Autoencoder) -> list[nn.Module]:
    """The last residual block of each resolution of an encoder."""
    blocks = [*vae.net.encoder.blocks, None]
    return [a for a, b in pairwise(blocks) if isinstance(a, MaisiResBlock) and not isinstance(b, MaisiResBlock)]


def cell_moments(x: Tensor, cells: int) -> Tensor:
    """Mean, standard deviation and root mean square slope (per voxel) of x (B, C, I, J, K): (B, C, 3, cells³)."""
    slope = torch.zeros_like(x)
    for axis in (2, 3, 4):
        step = x.diff(dim=axis)
        slope.narrow(axis, 0, x.shape[axis] - 1).addcmul_(step, step)
    centre = x.mean((2, 3, 4), keepdim=True)
    centred = x - centre  # squares of centred values lose fewer digits
    parts = centred, centred.square(), slope
    mean, square, slope = (F.adaptive_avg_pool3d(part, cells).flatten(2) for part in parts)
    return torch.stack([mean + centre.flatten(2), (square - mean**2).clamp(min=0).sqrt(), slope.sqrt()], 2)


def unit(moments: Tensor) -> Tensor:
    """Root mean square deviation, over volumes and cells, of moments (N, channels, 3, cells³): (channels, 3, 1)."""
    spread = moments.var(0).mean(-1, keepdim=True).sqrt()
    if not spread.any():
        raise ValueError(f"all {len(moments)} calibration volumes are equal; use scans of different participants")
    return spread.clamp(min=FLOOR * spread.median(0, keepdim=True).values).clamp(min=1e-6 * spread.max())
