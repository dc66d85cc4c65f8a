"""Fine-tuning a trained run on few pairs of image and mask, which it then generates together.

The network of the run is widened to the channels of the pairs, adapters are injected, and those alone are trained. It
starts from a Gaussian of its own data, as FLAIR is no T1: heads vary about the mean of the training pairs, and each has
about one of their lesions, in image and mask (`mixture`). Held-out pairs, at fixed draws of times and noise, say which
weights are kept, those before the first step among them, and when it ends. With everything switched off that was added,
the run's own network is back to the last bit.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromf.core.seeds import generator
from neuromf.meanflow import flow
from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora
from neuromf.vae import statistics
from neuromf.vae.maisi import LATENT_CHANNELS

logger = logging.getLogger(__name__)

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
    return PairLatents(statistics.normalise(torch.from_numpy(x).float(), stats), split, copy_, stats)


# --- training ----------------------------------------------------------------------------------------


class PairModule(MeanFlowModule):
    """Train what was added to a network on pairs; held-out ones say which weights are kept, and when it ends.

    Arguments:
        u: Of `add_adapters`.
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
        V = flow.implied_velocity(*self.derivative(u, z, t, r, along), t, r)
        parts = (slice(LATENT_CHANNELS), slice(LATENT_CHANNELS, None))
        return torch.stack([flow.raw_loss(V[:, part], v[:, part]) for part in parts], 1)

    def on_train_batch_end(self, *args: object) -> None:
        if len(self.held) and self.global_step % self.log_every == 0:
            self.evaluate()
        super().on_train_batch_end(*args)

    def evaluate(self) -> None:
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
