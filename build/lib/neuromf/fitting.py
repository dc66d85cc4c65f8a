"""Lightning wiring that every training shares: numbered draws, a history, checkpoints, resume. No formulas.

Every batch follows from (seed, number of the draw) alone, and the number is part of the checkpoint, so a
resumed run draws what the unbroken one would have, bit for bit on a CPU.
"""

import logging
import math
import os
import pickle
import resource
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from neuromf.seeds import generator

logger = logging.getLogger(__name__)

DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError)


class Study(pl.LightningModule):
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

    def choose(self) -> Tensor:
        """Which items the current batch holds: an endless sequence of shuffled epochs, cut into batches."""
        first = int(self.drawn) * self.batch
        numbers = range(first, first + self.batch)
        epochs = {epoch: torch.randperm(self.items, generator=generator("epoch", self.seed, epoch))
                  for epoch in {n // self.items for n in numbers}}  # fmt: skip
        return torch.stack([epochs[n // self.items][n % self.items] for n in numbers])

    def mine(self, batch: Tensor) -> Tensor:
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
                f"{self.choose().tolist()}; no weight was changed by it: lower lr, or look at these items"
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
            save_whole(self.trainer, self.checkpoint)

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


class Draws(Dataset):
    """What the loader yields: only that there is another draw; the module makes the batch itself."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        return i


def fit(
    module: Study,
    *,
    checkpoint: Path,
    made_by: str = "",
    keep: bool = False,
    checkpoint_every: int = 200,
    precision: str = "32-true",
    clip: float = 1.0,
    accumulate: int = 1,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
) -> None:
    """Train to the last step, from `checkpoint` if a killed run left one there.

    Arguments:
        module: What is trained; its history is complete afterwards, whatever was interrupted.
        checkpoint: File of the last whole state; the one before it stays beside. Both go when the run has ended.
        keep: Leave both, for `forget` once the results are written: a full disk then loses a few steps and no more.
        made_by: What the training depends on, such as its settings and digests of code and data. A checkpoint made by
            anything else, or damaged, is not gone on from.
        precision: Of Lightning; the derivative of the flow is float32 all the same.
        clip: Largest norm of the gradient.
        accumulate: Batches per optimiser step.
        devices, num_nodes: Processes a node and nodes; a batch is shared out among all of them.
    """
    module.checkpoint, module.checkpoint_every, module.made_by = checkpoint, checkpoint_every, made_by
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer = pl.Trainer(
        max_steps=module.steps,
        max_epochs=-1,
        precision=precision,  # type: ignore[arg-type]  # Lightning says what it takes
        gradient_clip_val=clip,
        accumulate_grad_batches=accumulate,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=DDPStrategy(broadcast_buffers=False) if devices * num_nodes > 1 else "auto",
        plugins=[environment(devices * num_nodes)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    loader = DataLoader(Draws(module.steps * accumulate))
    trainer.fit(module, loader, ckpt_path=usable(checkpoint, made_by), weights_only=True)
    if module.global_step < module.steps:
        raise RuntimeError(f"training ended at step {module.global_step} of {module.steps}; run it again to go on")
    if not keep:
        forget(checkpoint)


def environment(processes: int) -> ClusterEnvironment:
    """How these processes find each other: as tasks of the srun that started them all, else started by Lightning.

    Whether Lightning looks at Slurm is not left to it: inside any job it would take that job's one task for all.
    """
    if processes > 1 and int(os.environ.get("SLURM_NTASKS", 1)) == processes:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def forget(checkpoint: Path) -> None:
    """Remove the checkpoints of a training whose results are written."""
    for path in (checkpoint, one_before(checkpoint)):
        path.unlink(missing_ok=True)


def usable(checkpoint: Path, made_by: str = "") -> Path | None:
    """The newest whole checkpoint of this very training, else None; one that is left out is named with the reason."""
    for path in (checkpoint, one_before(checkpoint)):
        if path.exists():
            if not (reason := _unfit(path, made_by)):
                logger.info("going on from %s", path)
                return path
            logger.warning("%s is not gone on from: %s", path, reason)
    return None


def one_before(checkpoint: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return checkpoint.with_name(f"before-{checkpoint.name}")


def _unfit(path: Path, made_by: str) -> str:
    """Why a checkpoint must not be gone on from; nothing where it may."""
    try:
        with zipfile.ZipFile(path) as file:  # its checksums, which torch does not look at in mapped files
            broken = file.testzip()
        if broken:
            return f"it is damaged ({broken})"
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("made_by")
    except DAMAGED as error:
        return f"it is cut short or damaged ({type(error).__name__})"
    return "" if found == made_by else "it is of other settings, data or code"


def write_rows(rows: list[dict], path: Path) -> None:
    """Rows of a history or of diagnostics as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")


def card(module: Study, config: dict, data: dict) -> dict:
    """What made a run: its values, its data, versions, size, what it cost, and where its raw losses ended."""
    versions = {name: metadata.version(name) for name in ("neuromf", "torch", "monai", "pytorch-lightning")}
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    cost = {"seconds": round(module.seconds(), 1), "peak_mb": peak_mb(), "device": device_name()}
    return {"config": config, "data": data, "versions": versions, "parameters": trained, **cost,
            "last": module.history[-1] if module.history else {}}  # fmt: skip


def peak_mb() -> float:
    """Largest memory of this process so far, in MB: of the GPU's allocator where there is one, else resident."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def save_whole(trainer: pl.Trainer, path: Path) -> None:
    """Write the state to a file beside, then put it in place: the last one or the one before is always there."""
    part = path.with_suffix(".part")
    try:
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            if path.exists():
                path.replace(one_before(path))
            part.replace(path)
    finally:
        if trainer.is_global_zero:
            part.unlink(missing_ok=True)
