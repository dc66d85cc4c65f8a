"""A LightningModule whose random draws are numbered, so that an interrupted training resumes with the same bits."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from neuromf.core.seeds import generator
from neuromf.training.checkpoints import save_checkpoint
from neuromf.training.loggers import WandbLogger
from neuromf.training.muon import Muon, split_hidden

logger = logging.getLogger(__name__)


class ResumableModule(pl.LightningModule):
    """Base class of every training: warm-up and cosine decay, numbered draws, a history that resumes.

    Arguments:
        n_items: Number of training items.
        batch: Items per batch, over all processes.
        steps: Optimiser steps.
        lr: Peak learning rate.
        seed: Seed of all draws.
        lr_end: Final learning rate as a fraction of `lr`.
        warmup: Steps of linear warm-up.
        weight_decay: Weight decay.
        betas: Decay rates of AdamW's moments.
        muon_lr: Peak learning rate of Muon for hidden matrices and convolutions; None: AdamW for all parameters.
        log_every: Steps per row of the history.
    """

    PROGRESS: tuple[str, ...] = ("loss",)  # history columns in the log
    FIRST_AND_LAST: tuple[str, ...] = ()  # parts of the names of parameters that Muon does not update
    drawn: Tensor

    def __init__(
        self,
        n_items: int,
        *,
        batch: int,
        steps: int,
        lr: float,
        seed: int,
        lr_end: float = 0.0,
        warmup: int = 50,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        muon_lr: float | None = None,
        log_every: int = 50,
    ) -> None:
        super().__init__()
        self.n_items, self.batch, self.steps, self.lr, self.seed = n_items, batch, steps, lr, seed
        self.lr_end, self.warmup, self.weight_decay, self.log_every = lr_end, warmup, weight_decay, log_every
        self.muon_lr, self.betas = muon_lr, betas
        self.register_buffer("drawn", torch.zeros((), dtype=torch.long))  # batches drawn, across interruptions
        self.checkpoint: Path | None = None
        self.checkpoint_every, self.provenance = 0, ""
        self.history_logger: WandbLogger | None = None
        self.first_row: tuple[float, int] | None = None  # time and step from which the speed is measured
        self.started, self.earlier_seconds = time.monotonic(), 0.0  # start of this process, seconds of earlier ones
        self.history: list[dict[str, float]] = []
        self.values: dict[str, list[float]] = {}  # recorded since the last row of the history

    def draw(self, purpose: str) -> torch.Generator:
        """Random generator of the current batch for one purpose."""
        return generator(purpose, self.seed, int(self.drawn))

    def batch_indices(self) -> Tensor:
        """Item indices of the current batch: an endless sequence of shuffled epochs, cut into batches."""
        first = int(self.drawn) * self.batch
        numbers = range(first, first + self.batch)
        epochs = {epoch: torch.randperm(self.n_items, generator=generator("epoch", self.seed, epoch))
                  for epoch in {n // self.n_items for n in numbers}}  # fmt: skip
        return torch.stack([epochs[n // self.n_items][n % self.n_items] for n in numbers])

    def local_rows(self, batch: Tensor) -> Tensor:
        """Rows of a global batch that belong to this process. Every process draws the global batch."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self._trainer else (0, 1)
        if len(batch) % world:
            raise ValueError(f"train.batch must be a multiple of the number of processes, {world}; got {len(batch)}")
        return batch[rank::world]

    def gathered(self, rows: list) -> list:
        """Concatenated lists of all processes, by rank."""
        if self.trainer.world_size == 1:
            return rows
        parts: list = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def record(self, **values: Tensor) -> None:
        """Add values of this step to the next history row, which holds their means.

        Raises:
            FloatingPointError: If `loss` is not finite.
        """
        if not values["loss"].isfinite():
            raise FloatingPointError(
                f"loss is {float(values['loss'])} at step {self.global_step}, batch {int(self.drawn)}, items "
                f"{self.batch_indices().tolist()}; the weights are unchanged: lower lr, or inspect these items"
            )
        for name, value in values.items():
            self.values.setdefault(name, []).extend(value.detach().flatten().tolist())

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Record the gradient norm before clipping, and whether it exceeds the clipping norm."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        limit = self.trainer.gradient_clip_val
        self.values.setdefault("grad_norm", []).append(float(norm))
        self.values.setdefault("clipped", []).append(float(limit is not None and norm > limit))

    def on_train_batch_end(self, *_: object) -> None:
        self.drawn += 1
        if int(self.drawn) % self.trainer.accumulate_grad_batches:
            return  # no optimiser step yet
        if self.global_step % self.log_every == 0 and self.values:
            self.append_history_row()
        if self.checkpoint and self.global_step % self.checkpoint_every == 0 and self.global_step < self.steps:
            save_checkpoint(self.trainer, self.checkpoint)

    def append_history_row(self) -> None:
        """Close the current history row: means of the recorded values over all processes."""
        means = {name: _mean(self.gathered(values)) for name, values in self.values.items()}
        self.history.append({"step": self.global_step, **means})
        self.values = {}
        logger.info(self.progress())
        if self.history_logger and self.trainer.is_global_zero:
            self.history_logger.log(self.history)

    def on_train_start(self) -> None:
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Duration of the training in seconds, without steps that an interruption lost."""
        return self.earlier_seconds + time.monotonic() - self.started

    def progress(self) -> str:
        """Log line with step, losses and remaining time."""
        now = time.monotonic()
        self.first_row = self.first_row or (now, self.global_step)
        speed = (self.global_step - self.first_row[1]) / max(now - self.first_row[0], 1e-9)
        left = f"{(self.steps - self.global_step) / speed:.0f} s left" if speed else "started"
        values = ", ".join(f"{k} {v:.4g}" for k, v in self.history[-1].items() if k in self.PROGRESS)
        return f"step {self.global_step} of {self.steps}: {values}; {left}"

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings: dict[str, Any] = {"betas": self.betas, "weight_decay": self.weight_decay}
        optimizer: torch.optim.AdamW
        if self.muon_lr is None:
            trained = [p for p in self.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=self.lr, **settings)
        else:
            hidden, others = split_hidden(self.named_parameters(), self.FIRST_AND_LAST)
            optimizer = Muon(hidden, others, lr=self.muon_lr, adamw_lr=self.lr, **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """Learning rate at a step as a fraction of `lr`: linear warm-up, then half a cosine down to `lr_end`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr_end + (1 - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["history"], checkpoint["values"], checkpoint["seconds"] = self.history, self.values, self.seconds()
        checkpoint["provenance"] = self.provenance

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history, self.values, self.earlier_seconds = (checkpoint[k] for k in ("history", "values", "seconds"))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
