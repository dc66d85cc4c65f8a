"""Feature sets by name: `open_features` returns a function from volumes to arrays.

Volumes have shape (N, I, J, K), values in [0, 1], RAS+. A feature set returns a dict of arrays (N, S, F): key "" with
S = 1 for features of whole volumes, keys "xy", "yz" and "zx" for the S slices of each plane. The unit of resampling is
the volume: a bootstrap draws from the first axis and keeps the slices of a volume together. Distances in different
feature sets are different quantities, so the name of the set stands in every row of the metrics.

"encoder" needs no download: it is the encoder of an earlier autoencoder of neuromf, the same in every study, which no
study uses otherwise (`encoder.py`). "autoencoder" is the study's own. "deepbet" is the network of an installed package,
independent of neuromf (`deepbet.py`). "radimagenet" is a published network (`backbones.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.typing import NDArray

from neuromf.core import parallel
from neuromf.metrics.features import backbones
from neuromf.metrics.features.deepbet import Deepbet
from neuromf.metrics.features.encoder import Autoencoder, Encoder, as_tensor, calibrate, frozen_encoder
from neuromf.metrics.images.spectral import as_volumes

NAMES = ("encoder", "autoencoder", "deepbet", *backbones.ORIGINS)
CALIBRATED = ("encoder", "autoencoder")  # sets whose units are set by training volumes
CALIBRATION = 32  # training volumes that set these units
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
        name: "encoder", "autoencoder", "deepbet" or "radimagenet".
        vae: Frozen autoencoder of the study (autoencoder only).
        scale: Centre and unit of the channel moments, see `calibrate` (encoder and autoencoder only).
        weights: File of the network's weights (radimagenet only).
        sha256: Expected SHA-256 of that file; None: not verified.
        n: Number of features (not radimagenet); None: 512.
        centre: Central fraction of the slices that is used (radimagenet only).
        seed: Seed of the random projection (not radimagenet).

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
    if scale is None or (name == "autoencoder" and vae is None):
        raise ValueError(
            f"features {name} need scale, the result of `calibrate`, and autoencoder needs vae, the study's autoencoder"
        )
    net = vae if name == "autoencoder" and vae is not None else frozen_encoder()
    return FeatureSet(f"{name}-{n}", Encoder(net, scale, n=n, seed=seed))


def feature_scales(specs: Sequence[dict], *, vae: Autoencoder, train: NDArray) -> Features:
    """Scale of each set in `CALIBRATED`, by its name, from the first training volumes (N, I, J, K)."""
    needed = {spec["name"] for spec in specs} & set(CALIBRATED)
    nets = {name: vae if name == "autoencoder" else frozen_encoder() for name in sorted(needed)}
    return {name: calibrate(net, train[:CALIBRATION]) for name, net in nets.items()}


def open_feature_sets(specs: Sequence[dict], *, vae: Autoencoder, scales: Features) -> list[FeatureSet]:
    """The feature sets of a study, one per dict of arguments of `open_features`."""
    return [open_features(**spec, vae=vae, scale=scales.get(spec["name"])) for spec in specs]


def extract(sets: Sequence[FeatureSet], volumes: NDArray) -> Features:
    """Features of volumes (N, I, J, K) in every set; keys are {name} or {name}-{plane}."""
    results = [(each.name, plane, array) for each in sets for plane, array in each(volumes).items()]
    return {f"{name}-{plane}" if plane else name: array for name, plane, array in results}
