"""Lightning wiring shared by every training: history, checkpoints, resume. No formulas.

Each batch depends on (seed, batch number) alone, and the batch number is part of the checkpoint: on a CPU, a resumed
run is bit-identical to an uninterrupted one.
"""

import os
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from neuromf.training.checkpoints import delete_checkpoints, find_checkpoint
from neuromf.training.loggers import make_logger
from neuromf.training.module import ResumableModule


def fit(
    module: ResumableModule,
    *,
    checkpoint: Path,
    provenance: str = "",
    keep_checkpoint: bool = False,
    checkpoint_every: int = 200,
    precision: str = "32-true",
    clip: float = 1.0,
    accumulate: int = 1,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    logger: str = "csv",
) -> None:
    """Train `module` to its last step, resuming from `checkpoint` if an interrupted run left one.

    Arguments:
        module: Module to train. Its `history` is complete afterwards, even across interruptions.
        checkpoint: File of the newest training state; the one before stays next to it. Both are deleted at the end.
        provenance: Text that identifies settings, code and data. A checkpoint with another provenance is not resumed.
        keep_checkpoint: Leave both checkpoints; the caller deletes them (`delete_checkpoints`) after writing results.
        checkpoint_every: Optimiser steps between two checkpoints.
        precision: Lightning precision, such as "32-true" or "bf16-mixed". The flow's du/dt is always float32.
        clip: Maximum gradient norm.
        accumulate: Batches per optimiser step.
        devices: Processes per node; each batch is divided among all processes.
        num_nodes: Nodes.
        logger: "csv", or "wandb" for an additional offline Weights & Biases run.
    """
    module.checkpoint, module.checkpoint_every, module.provenance = checkpoint, checkpoint_every, provenance
    module.history_logger = make_logger(logger, checkpoint.parent.parent)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer = pl.Trainer(
        max_steps=module.steps,
        max_epochs=-1,
        precision=precision,  # type: ignore[arg-type]  # Lightning validates it
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
    batches: DataLoader = DataLoader(range(module.steps * accumulate))  # type: ignore[arg-type]  # the module draws its batches
    trainer.fit(module, batches, ckpt_path=find_checkpoint(checkpoint, provenance), weights_only=True)
    if module.history_logger:
        module.history_logger.finish()
    if module.global_step < module.steps:
        raise RuntimeError(f"training stopped at step {module.global_step} of {module.steps}; run it again to resume")
    if not keep_checkpoint:
        delete_checkpoints(checkpoint)


def environment(n_processes: int) -> ClusterEnvironment:
    """Cluster environment of `n_processes`: Slurm if one `srun` started all of them, else Lightning's own launcher.

    Lightning's detection is not used: inside any Slurm job it takes the single task of the job for all processes.
    """
    if n_processes > 1 and int(os.environ.get("SLURM_NTASKS", 1)) == n_processes:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()
