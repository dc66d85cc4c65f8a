"""A LightningModule whose random draws are numbered, so that training resumes with the same bits."""

import logging
import math
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import Dataset

from neuromf.core.seeds import generator
from neuromf.training.checkpoints import save_checkpoint

logger = logging.getLogger(__name__)


class ResumableModule(pl.LightningModule):
    """What both trainings share: AdamW with warm-up and cosine, numbered draws, a history that resumes.

    Arguments:
        items: Number of things a batch is drawn from.
        batch, steps, lr, lr_end, warmup, weight_decay, seed: As in the config; steps are optimiser steps.
    """

    SHOWN: tuple[str, ...] = ("loss",)
    drawn: Tensor

    def __init__(
        self,
        items: int,
        *,
        batch: int,
        steps: int,
        lr: float,
        seed: int,
        lr_end: float = 0.0,
        warmup: int = 50,
        weight_decay: float = 0.0,
        log_every: int = 50,
    ) -> None:
        super().__init__()
        self.items, self.batch, self.steps, self.lr, self.seed = items, batch, steps, lr, seed
        self.lr_end, self.warmup, self.weight_decay, self.log_every = lr_end, warmup, weight_decay, log_every
        self.register_buffer("drawn", torch.zeros((), dtype=torch.long))  # batches drawn so far, ever
        self.checkpoint: Path | None = None
        self.checkpoint_every, self.made_by = 0, ""
        self.began: tuple[float, int] | None = None
        self.started, self.earlier = time.monotonic(), 0.0  # of this process, and seconds of those before it
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {}  # of the rows since the last line of history

    def draw(self, what: str) -> torch.Generator:
        """The source of chance of the current draw, one for each purpose."""
        return generator(what, self.seed, int(self.drawn))

    def batch_indices(self) -> Tensor:
        """Which items the current batch holds: an endless sequence of shuffled epochs, cut into batches."""
        first = int(self.drawn) * self.batch
        numbers = range(first, first + self.batch)
        epochs = {epoch: torch.randperm(self.items, generator=generator("epoch", self.seed, epoch))
                  for epoch in {n // self.items for n in numbers}}  # fmt: skip
        return torch.stack([epochs[n // self.items][n % self.items] for n in numbers])

    def local_rows(self, batch: Tensor) -> Tensor:
        """The rows of a global batch that fall to this process: every batch is drawn whole by each of them."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self._trainer else (0, 1)
        if len(batch) % world:
            raise ValueError(f"train.batch must be a multiple of the number of processes, {world}; got {len(batch)}")
        return batch[rank::world]

    def gathered(self, rows: list) -> list:
        """The lists of all processes, joined in their order."""
        if self.trainer.world_size == 1:
            return rows
        parts: list = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def record(self, **values: Tensor) -> None:
        """Add values of this step, one or several a name, to the next line of history; a NaN loss stops the run."""
        if not values["loss"].isfinite():
            raise FloatingPointError(
                f"loss is {float(values['loss'])} at step {self.global_step}, draw {int(self.drawn)}, items "
                f"{self.batch_indices().tolist()}; no weight was changed by it: lower lr, or look at these items"
            )
        for name, value in values.items():
            self.sums.setdefault(name, []).extend(value.detach().flatten().tolist())

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Norm of the whole gradient before it is clipped, and whether it will be."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        limit = self.trainer.gradient_clip_val
        self.sums.setdefault("grad_norm", []).append(float(norm))
        self.sums.setdefault("clipped", []).append(float(limit is not None and norm > limit))

    def on_train_batch_end(self, *_: object) -> None:
        self.drawn += 1
        if self.global_step % self.log_every == 0 and self.sums:
            self.history.append(
                {"step": self.global_step, **{name: _mean(self.gathered(v)) for name, v in self.sums.items()}}
            )
            self.sums = {}
            logger.info(self.progress())
        if self.checkpoint and self.global_step % self.checkpoint_every == 0 and self.global_step < self.steps:
            save_checkpoint(self.trainer, self.checkpoint)

    def on_train_start(self) -> None:
        self.started = time.monotonic()

    def seconds(self) -> float:
        """How long the training took up to now, what a killed process lost left out."""
        return self.earlier + time.monotonic() - self.started

    def progress(self) -> str:
        """One line: how far, how well, how long yet."""
        now = time.monotonic()
        self.began = self.began or (now, self.global_step)
        speed = (self.global_step - self.began[1]) / max(now - self.began[0], 1e-9)
        left = f"{(self.steps - self.global_step) / speed:.0f} s left" if speed else "started"
        values = ", ".join(f"{k} {v:.4g}" for k, v in self.history[-1].items() if k in self.SHOWN)
        return f"step {self.global_step} of {self.steps}: {values}; {left}"

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, betas=(0.9, 0.95), weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: linear warm-up, then half a cosine down to lr_end."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr_end + (1 - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["history"], checkpoint["sums"], checkpoint["seconds"] = self.history, self.sums, self.seconds()
        checkpoint["made_by"] = self.made_by

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history, self.sums, self.earlier = checkpoint["history"], checkpoint["sums"], checkpoint["seconds"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# --- running -----------------------------------------------------------------------------------------


class StepCounter(Dataset):
    """What the loader yields: only that there is another draw; the module makes the batch itself."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        return i
