"""A trained MeanFlow run: the network, its latent statistics, and how both are stored."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from neuromf.core.files import save_tensors
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn.unet import UNet
from neuromf.vae.maisi import LATENT_CHANNELS


def build_network(
    net: dict, prediction: str, *, prior: GaussianPrior | None = None, head: bool = False, seed: int = 0
) -> MeanVelocityNet:
    """The network of a study with fresh weights; `net` holds the keyword arguments of `nets.UNet`.

    With a prior the network is shown twice the channels (`MeanVelocityNet`); a head makes it give a second velocity.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {**net, "widths": tuple(net["widths"]), "attention": tuple(net["attention"])}
        channels = LATENT_CHANNELS * (1 if prior is None else 2)
        unet = UNet(channels, out_channels=LATENT_CHANNELS * (1 + head), **settings)
        return MeanVelocityNet(unet, prediction, prior, head=head)


@dataclass(frozen=True)
class Run:
    """A trained run: u(z, t, r) on normalised latents, their statistics and shape (C, I, J, K), and where u is."""

    u: MeanVelocityNet
    stats: dict
    shape: tuple[int, ...]
    device: str = "cpu"


def save_run(path: Path, nets: dict[str, MeanVelocityNet], *, early: Tensor | None, net: dict, stats: dict) -> None:
    """Write the networks of a run by kind ("ema", "online", ...), early samples, and all that `load_run` needs.

    They differ in the weights of `net` alone; the prior is written once.
    """
    u = nets["ema"]
    weights = {kind: each.net.state_dict() for kind, each in nets.items()}
    prior = u.prior and u.prior.state_dict()
    about = {"net": net, "prediction": u.prediction, "head": u.head, "prior": prior, "stats": json.dumps(stats)}
    save_tensors({"weights": weights, "early": early, **about}, path)


def load_run(path: str | Path, weights: str = "ema") -> Run:
    """A run as written by `save_run`, or a folder that it was packed into (`export.py`), frozen, on the CPU.

    Weights are "ema", "online" or another average; a packed run has "ema" alone.
    """
    packed = Path(path).is_dir()
    stored = _packed(Path(path), weights) if packed else torch.load(path, map_location="cpu", weights_only=True)
    prior = stored["prior"] and GaussianPrior(**stored["prior"])
    u = build_network(stored["net"], stored["prediction"], prior=prior, head=stored["head"])
    u.net.load_state_dict(stored["weights"][weights])
    stats = json.loads(stored["stats"])
    return Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))


def _packed(folder: Path, weights: str) -> dict:
    """What `save_run` stores, from the folder of a packed run."""
    missing = [name for name in ("config.json", "weights.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}: it is no run packed by the rule export")
    if weights != "ema":
        raise ValueError(f"{folder} is a packed run, which has the weights ema alone; {weights!r} is in its model.pt")
    about, file = json.loads((folder / "config.json").read_text(encoding="utf-8")), folder / "weights.safetensors"
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != about["weights_sha256"]:
        wanted = about["weights_sha256"]
        raise ValueError(f"{file} has SHA-256 {found}, config.json beside it says {wanted}: copy the folder again")
    tensors, parts = load_file(file), {}
    for part in ("net", "prior"):
        parts[part] = {k.removeprefix(f"{part}."): w for k, w in tensors.items() if k.startswith(f"{part}.")}
    kept = {name: about[name] for name in ("net", "prediction", "head")}
    stats = json.dumps(about["stats"])
    return {**kept, "weights": {"ema": parts["net"]}, "prior": parts["prior"] or None, "stats": stats}


def to_device(run: Run, device: str) -> Run:
    """The run with its network on a device."""
    return replace(run, u=run.u.to(device), device=device)
