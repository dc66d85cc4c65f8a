"""Lightning wiring that every training shares: numbered draws, a history, checkpoints, resume. No formulas.

Every batch follows from (seed, number of the draw) alone, and the number is part of the checkpoint, so a
resumed run draws what the unbroken one would have, bit for bit on a CPU.
"""

import logging
import os
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from neuromf.training.checkpoints import delete_checkpoints, find_checkpoint
from neuromf.training.module import ResumableModule, StepCounter

logger = logging.getLogger(__name__)


def fit(
    module: ResumableModule,
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
        keep: Leave both, for `delete_checkpoints` once the results are written: a full disk then loses a few steps and no more.
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
    loader = DataLoader(StepCounter(module.steps * accumulate))
    trainer.fit(module, loader, ckpt_path=find_checkpoint(checkpoint, made_by), weights_only=True)
    if module.global_step < module.steps:
        raise RuntimeError(f"training ended at step {module.global_step} of {module.steps}; run it again to go on")
    if not keep:
        delete_checkpoints(checkpoint)


def environment(processes: int) -> ClusterEnvironment:
    """How these processes find each other: as tasks of the srun that started them all, else started by Lightning.

    Whether Lightning looks at Slurm is not left to it: inside any job it would take that job's one task for all.
    """
    if processes > 1 and int(os.environ.get("SLURM_NTASKS", 1)) == processes:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()
