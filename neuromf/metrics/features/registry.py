"""Features of volumes behind one door: `open_features` gives a named set, calling it gives arrays.

Volumes have shape (N, I, J, K), in [0, 1], RAS+. What comes back is a dict of arrays (N, S, F): key "" with S = 1 for
features of whole volumes, keys "xy", "yz", "zx" for the S slices of each plane. A volume is what is drawn: a bootstrap
or a count redraws the first axis, never slices. The name of a set goes into every number made from it, since distances
in other features, or of other slices, are other numbers.

"encoder" needs no download: it is the study's own frozen autoencoder, whose posterior means say little of texture, but
whose blocks say much. The others are published networks (`backbones.py`).

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (Zhang et al., 2018), arXiv:1801.03924
    Feature Hashing for Large Scale Multitask Learning (Weinberger et al., 2009), arXiv:0902.2206
"""

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiResBlock
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromf.core import parallel
from neuromf.metrics.features import backbones
from neuromf.metrics.images.spectral import as_volumes

logger = logging.getLogger(__name__)

NAMES = ("encoder", *backbones.ORIGINS)
CELLS = 4  # parts of a volume along each axis, in which the encoder's channels are summed up
FLOOR = 0.1  # of the median unit: channels in which people hardly differ would count for too much
WARNINGS = {
    "med3d": "features med3d are nearly parallel for any two volumes, and their Frechet distance of heads to noise is "
    "below 1: small distances mean nothing here unless the controls beside them stand in order"
}


class Autoencoder(Protocol):
    """What is read here of an autoencoder: its network, and how that takes volumes (B, 1, I, J, K)."""

    net: Any

    def space_to_depth(self, volume: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FeatureSet:
    """A named way from volumes to features; `warning` is what a reader of its numbers must know, "" mostly."""

    name: str
    per_volume: backbones.PerVolume
    warning: str = ""

    def __call__(self, volumes: NDArray) -> dict[str, NDArray]:
        """Features (N, S, F) by plane, "" for whole volumes, of volumes (N, I, J, K) in [0, 1], one at a time."""
        found = parallel.map_in_threads(lambda volume: self.per_volume(as_tensor(volume)), as_volumes(volumes))
        return {key: torch.stack([one[key] for one in found]).numpy() for key in found[0]}


def open_features(
    name: str,
    *,
    vae: Autoencoder | None = None,
    scale: NDArray | None = None,
    weights: str | Path | None = None,
    sha256: str | None = None,
    n: int = 512,
    centre: float = 0.6,
    pad_to: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> FeatureSet:
    """A feature set by name, one of NAMES.

    Arguments:
        vae: Of "encoder": the study's frozen autoencoder, with `folded` and `net`.
        scale: Of "encoder": centre and unit of what its channels do, as `calibrate` finds them.
        weights: Of the others: file of the network's weights.
        sha256: Digest of that file, checked where given.
        n: Of "encoder": number of features.
        centre: Of slices: share of them that is used, those in the middle.
        pad_to: Of slices: shape that volumes are padded with 0 and cropped to beforehand; their own where None.
        seed: Of "encoder": of the sums that its moments are added up in.

    Raises:
        ValueError: If the name is unknown, something it needs is missing, or the weights are not its network's.
        FileNotFoundError: If there is no file of weights.
    """
    if name not in NAMES:
        raise ValueError(f"features must be one of {', '.join(NAMES)}; got {name}")
    if warning := WARNINGS.get(name, ""):
        logger.warning(warning)
    if name != "encoder":
        full, per_volume = backbones.open_network(name, weights, sha256, centre=centre, pad_to=pad_to)
        return FeatureSet(full, per_volume, warning)
    if vae is None or scale is None:
        raise ValueError("features encoder need vae, the study's autoencoder, and scale, what `calibrate` finds")
    return FeatureSet(f"encoder-{n}", Encoder(vae, scale, n=n, seed=seed))


def as_tensor(volume: NDArray) -> Tensor:
    """One volume as float32, a copy: arrays may be reversed views, or not writable."""
    return torch.from_numpy(np.array(volume, np.float32, order="C"))


# --- the study's own encoder -------------------------------------------------------------------------


class Encoder:
    """Texture and anatomy as the blocks of the frozen encoder see them, and the latent.

    After the last residual block of each resolution, and of the posterior mean, each channel gives its mean, standard
    deviation and root mean square slope in each of CELLS³ parts of the volume. The last two are not linear in what the
    blocks see: they say how much texture there is, of which a mean says nothing. Each channel of each of the three is
    measured in the standard deviation of the calibration people, so that no block outweighs another, and all are added
    up with random signs in n sums, which vary by about 1 between people. That keeps distances in every direction; axes
    fitted to real people would be blind to what real people never have.
    """

    def __init__(self, vae: Autoencoder, scale: NDArray, *, n: int = 512, seed: int = 0) -> None:
        if n < 1:
            raise ValueError(f"n, the number of features, must be at least 1; got {n}")
        self.vae, self.n, (self.centre, self.unit) = vae, n, torch.from_numpy(scale)
        size, rng = self.centre.numel(), np.random.default_rng(seed)
        self.sum_of = torch.from_numpy(rng.integers(n, size=size))
        self.sign = torch.from_numpy(rng.choice([-1.0, 1.0], size)).float() * (n / size) ** 0.5

    def __call__(self, volume: Tensor) -> dict[str, Tensor]:
        """Features (1, n) of one volume (I, J, K)."""
        z = ((moments(self.vae, volume) - self.centre) / self.unit).flatten() * self.sign
        return {"": z.new_zeros(self.n).index_add(0, self.sum_of, z)[None]}


def calibrate(vae: Autoencoder, people: NDArray) -> NDArray:
    """Centre and unit of the `moments` of some training volumes (N, I, J, K): (2, channels, 3, CELLS³), float32."""
    people = as_volumes(people, "calibration")
    if len(people) < 4:
        raise ValueError(f"calibration needs 4 volumes, better 32; got {len(people)}")
    found = torch.stack(parallel.map_in_threads(lambda volume: moments(vae, as_tensor(volume)), people))
    return torch.stack(torch.broadcast_tensors(found.mean(0), unit(found))).numpy()


def moments(vae: Autoencoder, volume: Tensor) -> Tensor:
    """What each channel does in each part of a volume (I, J, K): (channels, 3, CELLS³)."""
    net, x, seen, last = vae.net, vae.space_to_depth(volume[None, None]), [], residual_blocks(vae)
    for block in net.encoder.blocks:
        x = block(x)
        if block in last:
            seen.append(coarse(x, CELLS)[0])
    return torch.cat([*seen, coarse(net.quant_conv_mu(x), CELLS)[0]])


def residual_blocks(vae: Autoencoder) -> list[nn.Module]:
    """The last residual block of each resolution of an encoder."""
    blocks = [*vae.net.encoder.blocks, None]
    return [a for a, b in pairwise(blocks) if isinstance(a, MaisiResBlock) and not isinstance(b, MaisiResBlock)]


def coarse(x: Tensor, cells: int) -> Tensor:
    """Mean, standard deviation and root mean square slope (per position) of x (B, C, I, J, K): (B, C, 3, cells³)."""
    slope = torch.zeros_like(x)
    for axis in (2, 3, 4):
        step = x.diff(dim=axis)
        slope.narrow(axis, 0, x.shape[axis] - 1).addcmul_(step, step)
    centre = x.mean((2, 3, 4), keepdim=True)
    off = x - centre  # its squares lose fewer digits
    parts = off, off.square(), slope
    mean, square, slope = (F.adaptive_avg_pool3d(part, cells).flatten(2) for part in parts)
    return torch.stack([mean + centre.flatten(2), (square - mean**2).clamp(min=0).sqrt(), slope.sqrt()], 2)


def unit(moments: Tensor) -> Tensor:
    """Root mean square deviation, over volumes and cells, of moments (N, channels, 3, cells³): (channels, 3, 1)."""
    spread = moments.var(0).mean(-1, keepdim=True).sqrt()
    if not spread.any():
        raise ValueError(f"the {len(moments)} volumes of calibration are all alike: give different people")
    return spread.clamp(min=FLOOR * spread.median(0, keepdim=True).values).clamp(min=1e-6 * spread.max())
