"""Checkpoints: written atomically, checked for damage and provenance, found again after a kill."""

import logging
import pickle
import zipfile
from pathlib import Path

import pytorch_lightning as pl
import torch

logger = logging.getLogger(__name__)

DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError)


def delete_checkpoints(checkpoint: Path) -> None:
    """Remove both checkpoints of a training whose results are written."""
    for path in (checkpoint, previous_checkpoint(checkpoint)):
        path.unlink(missing_ok=True)


def find_checkpoint(checkpoint: Path, provenance: str = "") -> Path | None:
    """The newest intact checkpoint with this provenance, else None. A rejected file is logged with the reason."""
    for path in (checkpoint, previous_checkpoint(checkpoint)):
        if path.exists():
            if not (reason := _rejection(path, provenance)):
                logger.info("resuming from %s", path)
                return path
            logger.warning("%s is not resumed: %s", path, reason)
    return None


def previous_checkpoint(checkpoint: Path) -> Path:
    """Path of the second-newest checkpoint, which remains usable if the newest is damaged."""
    return checkpoint.with_name(f"before-{checkpoint.name}")


def _rejection(path: Path, provenance: str) -> str:
    """Reason why a checkpoint cannot be resumed; empty if it can."""
    try:
        with zipfile.ZipFile(path) as file:  # torch does not verify the checksums of memory-mapped files
            broken = file.testzip()
        if broken:
            return f"it is damaged ({broken})"
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("provenance")
    except DAMAGED as error:
        return f"it is truncated or damaged ({type(error).__name__})"
    return "" if stored == provenance else "it was written with other settings, data or code"


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Write the training state next to `path`, then move it into place, so that an intact checkpoint always exists."""
    part = path.with_suffix(".part")
    try:
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            if path.exists():
                path.replace(previous_checkpoint(path))
            part.replace(path)
    finally:
        if trainer.is_global_zero:
            part.unlink(missing_ok=True)
