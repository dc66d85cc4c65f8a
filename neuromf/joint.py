"""Fine-tuning a trained run on few pairs of image and mask, which it then generates together.

The network of the run is widened to the channels of the pairs, adapters are injected, and those alone are trained. It
starts from a Gaussian of its own data, as FLAIR is no T1: heads vary about the mean of the training pairs, and each has
about one of their lesions, in image and mask (`mixture`). Held-out pairs, at fixed draws of times and noise, say which
weights are kept, those before the first step among them, and when it ends. With everything switched off that was added,
the run's own network is back to the last bit.
"""

import copy
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuromf import flow, generate, latents, lora
from neuromf.files import whole
from neuromf.gaussian import GaussianFlow
from neuromf.mixture import MixtureFlow, mixture_of_parts
from neuromf.nets import MeanVelocityNet
from neuromf.seeds import generator
from neuromf.training import FlowStudy
from neuromf.vae import LATENT_CHANNELS

logger = logging.getLogger(__name__)

TARGETS = {
    "attention": lora.ATTENTION,
    "convolutions": lora.CONVOLUTIONS,
    "both": f"({lora.ATTENTION}|{lora.CONVOLUTIONS})",
}
REFITS = ("none", "pair", "lesion")
NO_GAUSSIAN = "a network that predicts u has no Gaussian to refit; set finetune.refit to none"
DRAWS = 4  # fixed draws of times and noise for each held-out pair


@dataclass(frozen=True)
class PairLatents:
    """Latents of pairs (N, C, I, J, K), image channels first, normalised; which split each is of; their statistics."""

    x: Tensor
    split: np.ndarray
    copy: np.ndarray
    stats: dict

    def of(self, split: str, *, copies: bool = False) -> Tensor:
        """Those of a split, as they are or with their mirrored and augmented copies."""
        return self.x[torch.from_numpy((self.split == split) & (copies | (self.copy == 0)))]


def read_pairs(path: Path) -> PairLatents:
    """Pair latents of a file with arrays x, split and copy and the JSON text stats (mean and std of each channel).

    Raises:
        ValueError: If no training pair is there, or a value is not finite.
    """
    with np.load(path) as file:
        x, split, copy_, stats = (file[name] for name in ("x", "split", "copy", "stats"))
    if not ((split == "train") & (copy_ == 0)).any():
        raise ValueError(f"{path} holds no training pair; splits are {sorted(set(split.tolist()))}: see fcd.split")
    if not np.isfinite(x).all():
        raise ValueError(f"{path} holds {int((~np.isfinite(x)).sum())} values that are not finite; encode pairs again")
    stats = {**json.loads(str(stats)), "shape": list(x.shape[1:])}
    return PairLatents(latents.normalise(torch.from_numpy(x).float(), stats), split, copy_, stats)


# --- the network -------------------------------------------------------------------------------------


def prepared(
    u: MeanVelocityNet,
    channels: int,
    *,
    rank: int,
    alpha: float,
    targets: str,
    base: GaussianFlow | None = None,
    seed: int = 0,
) -> MeanVelocityNet:
    """A copy of a trained network that is widened, has adapters, and trains nothing else.

    Arguments:
        channels: Of the pairs.
        rank, alpha: Of the adapters.
        targets: The layers that get one, of `TARGETS`.
        base: The Gaussian it starts from in place of its own; its own where None.
        seed: Of the first weights of adapters.

    Raises:
        ValueError: If targets are unknown, or the network has no Gaussian to replace.
    """
    if targets not in TARGETS:
        raise ValueError(f"adapter.targets must be one of {', '.join(TARGETS)}; got {targets!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        u = lora.inject_lora(lora.widen(copy.deepcopy(u), channels), rank, alpha, TARGETS[targets])
    if base is not None:
        if u.base is None:
            raise ValueError(NO_GAUSSIAN)
        u.base = lora.Refitted(u.base, base)  # type: ignore[assignment]  # called as either of them is
    return lora.freeze_base_unfreeze_lora(u).train()


def refitted(
    old: GaussianFlow | None, x: Tensor, *, refit: str, axes: int, loose: float, mask_rest: float
) -> GaussianFlow | None:
    """The Gaussian that pairs (N, C, I, J, K) start from, in place of that of the run; None for its own.

    Arguments:
        old: That of the run, of its own channels.
        refit: Of `REFITS`. none: its own, and no lesion; pair: images and masks vary together; lesion: heads vary, and
            each has about one of the lesions that were seen.
        axes: Of pairs, or of heads: at most so many, and fewer than pairs.
        loose: Of lesion: share of their variance that is Gaussian.
        mask_rest: Of lesion: variance of mask channels off the axes, in units of a channel's own.
    """
    if refit not in REFITS:
        raise ValueError(f"finetune.refit must be one of {', '.join(REFITS)}; got {refit!r}")
    if refit == "none":
        return None
    if old is None:
        raise ValueError(NO_GAUSSIAN)
    if refit == "pair":
        return GaussianFlow.fitted(x, axes)
    least = torch.tensor(by_kind((0.0, mask_rest), x.shape[1]))
    return mixture_of_parts(x.mean(0), *apart(x), n_axes=axes, loose=loose, least=least)


def apart(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (N, C, I, J, K) less their mean as what is of the head and what is of the lesion.

    Of the lesion are the mask's channels, and the image's where the mask differs from that of no lesion: the median of
    all, as lesions are at different places. From a quarter to three quarters of its largest difference more and more.
    """
    off, mask = x - x.mean(0), x[:, LATENT_CHANNELS:]
    differs = torch.linalg.vector_norm(mask - mask.median(0).values, dim=1, keepdim=True)
    window = (2 * differs / differs.amax((2, 3, 4), keepdim=True).clamp(min=1e-6) - 0.5).clamp(0, 1)
    lesion = torch.cat([window * off[:, :LATENT_CHANNELS], off[:, LATENT_CHANNELS:]], dim=1)
    return off - lesion, lesion


def by_kind(values: Sequence[float], channels: int) -> list[float]:
    """A value for each channel, from that of image channels and that of mask channels."""
    image, mask = values
    return [image] * LATENT_CHANNELS + [mask] * (channels - LATENT_CHANNELS)


# --- training ----------------------------------------------------------------------------------------


class JointStudy(FlowStudy):
    """Train what was added to a network on pairs; held-out ones say which weights are kept, and when it ends.

    Arguments:
        u: Of `prepared`.
        x: Normalised training pairs (N, C, I, J, K), copies and all.
        held: Normalised held-out pairs; of none, the last weights are kept.
        look_every: Steps between two looks at them; a line of history each.
        patience: Looks without a lower raw loss after which it ends.
    """

    SHOWN = ("raw_fm", "raw_mf", "held")

    def __init__(
        self, u: MeanVelocityNet, x: Tensor, held: Tensor, *, look_every: int, patience: int, **study: Any
    ) -> None:
        super().__init__(u, x, log_every=look_every, **study)
        self.held, self.patience = held, patience
        self.best: dict = {"held": math.inf, "step": 0, "state": {}}
        self.looks_since = 0

    def held_out(self, u: MeanVelocityNet) -> dict[str, Tensor]:
        """Raw losses of a network on held-out pairs at fixed draws, of all channels, of the image's and the mask's."""
        n = len(self.held) * DRAWS
        x = self.held.repeat_interleave(DRAWS, 0).to(self.device)
        eps = torch.randn(x.shape, generator=generator("held eps", self.seed)).to(x)
        t, r = (a.to(x) for a in flow.draw_times(n, generator("held times", self.seed), **self.times))
        was, _ = u.training, u.train()  # data predictions are clipped at small t, as their target is
        with torch.no_grad():
            parts = [self.errors(u, *(a[rows] for a in (x, eps, t, r))) for rows in torch.arange(n).split(self.batch)]
        u.train(was)
        image, mask = torch.cat(parts).unbind(1)
        share = LATENT_CHANNELS / x.shape[1]
        return {"held": share * image + (1 - share) * mask, "held_image": image, "held_mask": mask}

    def errors(self, u: MeanVelocityNet, x: Tensor, eps: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Raw losses (B, 2) of a network on a batch: of image channels and of mask channels."""
        z, v = flow.training_path(x, eps, t, u.prediction)
        along = flow.predicted_tangent(u, z, t, r) if self.tangent == "predicted" else v
        V = flow.instantaneous(*self.derivative(u, z, t, r, along), t, r)
        parts = (slice(LATENT_CHANNELS), slice(LATENT_CHANNELS, None))
        return torch.stack([flow.raw_loss(V[:, part], v[:, part]) for part in parts], 1)

    def on_train_batch_end(self, *args: object) -> None:
        if len(self.held) and self.global_step % self.log_every == 0:
            self.look()
        super().on_train_batch_end(*args)

    def look(self) -> None:
        """Judge the averaged weights; keep them where they are the best so far, end where none were for long."""
        found = {name: value.mean() for name, value in self.held_out(self.ema.net).items()}
        self.sums.update({name: [float(value)] for name, value in found.items()})
        self.looks_since += 1
        if found["held"] < self.best["held"]:
            self.best = {"held": float(found["held"]), "step": self.global_step, "state": self.weights()}
            self.looks_since = 0
        if self.looks_since >= self.patience:
            logger.info("ended at step %d: best at step %d", self.global_step, self.best["step"])
            self.steps, self.trainer.should_stop = self.global_step, True

    def before(self) -> dict[str, float]:
        """The line of history before the first step; weights that are never better than these are not kept."""
        found = {name: float(value.mean()) for name, value in self.held_out(self.u).items() if len(value)}
        if found:
            self.best = {"held": found["held"], "step": 0, "state": self.weights()}
        return {"step": 0, **found}

    def weights(self) -> dict[str, Tensor]:
        """A copy of the averaged weights of all that is trained."""
        return {name: w.clone() for name, w in lora.adapter_state(self.ema.net).items()}

    def chosen(self) -> MeanVelocityNet:
        """The network with the best averaged weights, or the last ones where no pair was held out."""
        if self.best["state"]:
            self.ema.net.load_state_dict(self.best["state"], strict=False)
        return self.ema.net

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"], checkpoint["looks_since"] = self.best, self.looks_since

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best, self.looks_since = checkpoint["best"], checkpoint["looks_since"]


# --- stored ------------------------------------------------------------------------------------------


def save_joint(u: MeanVelocityNet, adapter: Path, gaussian: Path, *, stats: dict, **injected: object) -> None:
    """Write what was trained to one file, with how it was injected and the statistics of pairs, and the Gaussian.

    Arguments:
        injected: rank, alpha and targets of `prepared`.
    """
    with whole(adapter) as part:
        lora.save_adapter(u, part, stats=stats, **injected)
    base: dict[str, Tensor] = u.base.new.state_dict() if isinstance(u.base, lora.Refitted) else {}
    with whole(gaussian) as part:
        save_file({name: value.contiguous() for name, value in base.items()}, part)


def load_joint(run: generate.Run, adapter: Path, gaussian: Path) -> generate.Run:
    """The run with its adapter: it draws denormalised joint latents, image channels first, and is frozen.

    Raises:
        ValueError: If the adapter is not of this run.
    """
    about, base = lora.read_about(adapter), load_file(gaussian)
    stats = about.pop("stats")
    u = prepared(run.u, stats["shape"][0], base=restored(base) if base else None, **about)
    lora.load_adapter(u, adapter)
    return generate.Run(u.requires_grad_(False).eval(), stats, tuple(stats["shape"]))


def restored(state: dict[str, Tensor]) -> GaussianFlow:
    """The Gaussian, or the mixture, of what `save_joint` wrote."""
    return (MixtureFlow if "centres" in state else GaussianFlow)(**state)
