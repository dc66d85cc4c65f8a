"""Feature sets by name: `open_features` returns a function from volumes to arrays.

Volumes have shape (N, I, J, K), values in [0, 1], RAS+. A feature set returns a dict of arrays (N, S, F): key "" with
S = 1 for features of whole volumes, keys "xy", "yz" and "zx" for the S slices of each plane. The unit of resampling is
the volume: a bootstrap draws from the first axis and keeps the slices of a volume together. Distances in different
feature sets are different quantities, so the name of the set stands in every row of the metrics.

"encoder" needs no download: it is the study's own frozen autoencoder (`encoder.py`). "deepbet" is the network of an
installed package, independent of the study (`deepbet.py`). "radimagenet" is a published network (`backbones.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuromf.core import parallel
from neuromf.metrics.features import backbones
from neuromf.metrics.features.deepbet import Deepbet
from neuromf.metrics.features.encoder import Autoencoder, Encoder, as_tensor, calibrate
from neuromf.metrics.images.spectral import as_volumes

NAMES = ("encoder", "deepbet", *backbones.ORIGINS)
CALIBRATION = 32  # training volumes that set the units of encoder features
Features = dict[str, NDArray]  # (N, S, F) by the name of the feature set and its plane


@dataclass(frozen=True)
class FeatureSet:
    """A named function from volumes to features."""

    name: str
    per_volume: backbones.PerVolume

    def __call__(self, volumes: NDArray) -> dict[str, NDArray]:
        """Features (N, S, F) by plane, "" for whole volumes, of volumes (N, I, J, K) in [0, 1]."""
        results = parallel.map_in_threads(lambda volume: self.per_volume(as_tensor(volume)), as_volumes(volumes))
        return {plane: torch.stack([one[plane] for one in results]).numpy() for plane in results[0]}


def open_features(
    name: str,
    *,
    vae: Autoencoder | None = None,
    scale: NDArray | None = None,
    weights: str | Path | None = None,
    sha256: str | None = None,
    n: int | None = None,
    centre: float = 0.6,
    seed: int = 0,
) -> FeatureSet:
    """A feature set by name.

    Arguments:
        name: "encoder", "deepbet" or "radimagenet".
        vae: Frozen autoencoder of the study (encoder only).
        scale: Centre and unit of the channel moments, see `calibrate` (encoder only).
        weights: File of the network's weights (radimagenet only).
        sha256: Expected SHA-256 of that file; None: not verified.
        n: Number of features (encoder and deepbet only); None: 512.
        centre: Central fraction of the slices that is used (radimagenet only).
        seed: Seed of the random projection (encoder and deepbet only).

    Raises:
        ValueError: If the name is unknown, a required argument is missing, or the weights belong to another network.
        FileNotFoundError: If the file of weights does not exist.
        ModuleNotFoundError: If the package deepbet is not installed (deepbet only).
    """
    if name not in NAMES:
        raise ValueError(f"features must be one of {', '.join(NAMES)}; got {name}")
    if name == "radimagenet":
        return FeatureSet(*backbones.open_radimagenet(weights, sha256, centre=centre))
    n = 512 if n is None else n
    if name == "deepbet":
        return FeatureSet(f"deepbet-{n}", Deepbet(n=n, seed=seed))
    if vae is None or scale is None:
        raise ValueError("features encoder need vae, the study's autoencoder, and scale, the result of `calibrate`")
    return FeatureSet(f"encoder-{n}", Encoder(vae, scale, n=n, seed=seed))


def feature_scale(specs: Sequence[dict], *, vae: Autoencoder, train: NDArray) -> NDArray:
    """Scale of the encoder features from the first training volumes (N, I, J, K); empty if no set is "encoder"."""
    needed = any(spec["name"] == "encoder" for spec in specs)
    return calibrate(vae, train[:CALIBRATION]) if needed else np.empty(0, np.float32)


def open_feature_sets(specs: Sequence[dict], *, vae: Autoencoder, scale: NDArray) -> list[FeatureSet]:
    """The feature sets of a study, one per dict of arguments of `open_features`."""
    return [open_features(**spec, vae=vae, scale=scale) for spec in specs]


def extract(sets: Sequence[FeatureSet], volumes: NDArray) -> Features:
    """Features of volumes (N, I, J, K) in every set; keys are {name} or {name}-{plane}."""
    results = [(each.name, plane, array) for each in sets for plane, array in each(volumes).items()]
    return {f"{name}-{plane}" if plane else name: array for name, plane, array in results}
