"""A trained MeanFlow run: network, latent statistics, and their storage."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from neuromf.core.files import save_tensors, sha256
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.packaged import PACKAGED, read_packaged
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn.unet import UNet
from neuromf.vae.maisi import LATENT_CHANNELS


def build_network(
    net: dict,
    prediction: str,
    *,
    shape: tuple[int, ...] | None = None,
    prior: GaussianPrior | None = None,
    velocity_head: bool = False,
    seed: int = 0,
) -> MeanVelocityNet:
    """The network with freshly initialised weights.

    Arguments:
        net: Config section meanflow.net: keyword arguments of `UNet`, and position_maps.
        prediction: "u" or "x".
        shape: Latent shape (C, I, J, K), needed for position maps.
        prior: Gaussian prior, or None. With a prior the UNet has twice the input channels, see `MeanVelocityNet`.
        velocity_head: Whether the network has a second output head for v.
        seed: Seed of the weights; the global random state is not changed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {**net, "widths": tuple(net["widths"]), "attention": tuple(net["attention"])}
        if settings.pop("position_maps", False):
            if shape is None:
                raise ValueError("net.position_maps needs the shape of the latents")
            settings["maps"] = shape[1:]
        channels = LATENT_CHANNELS * (1 if prior is None else 2)
        unet = UNet(channels, out_channels=LATENT_CHANNELS * (1 + velocity_head), **settings)
        return MeanVelocityNet(unet, prediction, prior, velocity_head=velocity_head)


@dataclass(frozen=True)
class Run:
    """A trained run.

    Arguments:
        u: Average velocity on normalised latents.
        stats: Latent statistics of the training participants.
        shape: Latent shape (C, I, J, K).
        device: Device of `u`.
    """

    u: MeanVelocityNet
    stats: dict
    shape: tuple[int, ...]
    device: str = "cpu"


def save_run(path: Path, nets: dict[str, MeanVelocityNet], *, early: Tensor | None, net: dict, stats: dict) -> None:
    """Write a run to one file.

    Arguments:
        path: Output file.
        nets: Networks by kind ("ema", "online", ...), which differ in their weights only.
        early: Early samples, normalised, shape (N, C, I, J, K).
        net: Keyword arguments of `UNet`.
        stats: Latent statistics.
    """
    u = nets["ema"]
    weights = {kind: each.net.state_dict() for kind, each in nets.items()}
    prior = u.prior and u.prior.state_dict()
    config = {"net": net, "prediction": u.prediction, "velocity_head": u.velocity_head}
    save_tensors({"weights": weights, "early": early, **config, "prior": prior, "stats": json.dumps(stats)}, path)


def load_run(path: str | Path, weights: str = "ema") -> Run:
    """Load a run on the CPU, frozen.

    Arguments:
        path: File written by `save_run`, the folder of a packed run (rule export), a file of `packaged.pack`, or
            "packaged", the generator inside neuromf.
        weights: "ema", "online" or another kind; packed runs have "ema" only.
    """
    stored = read_run(path, weights)
    prior = stored["prior"] and GaussianPrior(**stored["prior"])
    stats = json.loads(stored["stats"])
    settings = {"shape": tuple(stats["shape"]), "velocity_head": stored["velocity_head"]}
    u = build_network(stored["net"], stored["prediction"], prior=prior, **settings)
    u.net.load_state_dict(stored["weights"][weights])
    return Run(u.requires_grad_(False).eval(), stats, settings["shape"])


def read_run(path: str | Path, weights: str = "ema") -> dict:
    """Contents of a run in the layout of `save_run`; arguments as of `load_run`."""
    path = PACKAGED if path == "packaged" else Path(path)
    if path.is_dir():
        return _read_packed(path, weights)
    if path.suffix == ".safetensors":
        _check_kind(path, weights)
        return read_packaged(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_kind(path: Path, weights: str) -> None:
    """Refuse other weights than "ema" of a packed run."""
    if weights != "ema":
        raise ValueError(f"{path} is a packed run, which has the weights ema only; load {weights!r} from its model.pt")


def _read_packed(folder: Path, weights: str) -> dict:
    """Contents of the folder of a packed run, in the layout of `save_run`."""
    missing = [name for name in ("config.json", "weights.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}; expected a run packed by the rule export")
    _check_kind(folder, weights)
    config, file = json.loads((folder / "config.json").read_text(encoding="utf-8")), folder / "weights.safetensors"
    if (found := sha256(file)) != (expected := config["weights_sha256"]):
        raise ValueError(f"{file} has SHA-256 {found}, config.json expects {expected}; copy the folder again")
    parts: dict[str, dict[str, Tensor]] = {"net": {}, "prior": {}, "decoder": {}}
    for name, tensor in load_file(file).items():
        part, name = name.split(".", 1)
        parts[part][name] = tensor
    settings = {name: config[name] for name in ("net", "prediction", "velocity_head")}
    stats = json.dumps(config["stats"])
    return {**settings, "weights": {"ema": parts["net"]}, "prior": parts["prior"] or None, "stats": stats}


def to_device(run: Run, device: str) -> Run:
    """The run with its network on `device`."""
    return replace(run, u=run.u.to(device), device=device)
