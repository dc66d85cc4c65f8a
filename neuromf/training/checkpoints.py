"""Checkpoints: written whole, checked for provenance, and found again after a kill."""

import logging
import pickle
import zipfile
from pathlib import Path

import pytorch_lightning as pl
import torch

logger = logging.getLogger(__name__)

DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError)


def delete_checkpoints(checkpoint: Path) -> None:
    """Remove the checkpoints of a training whose results are written."""
    for path in (checkpoint, previous_checkpoint(checkpoint)):
        path.unlink(missing_ok=True)


def find_checkpoint(checkpoint: Path, made_by: str = "") -> Path | None:
    """The newest whole checkpoint of this very training, else None; one that is left out is named with the reason."""
    for path in (checkpoint, previous_checkpoint(checkpoint)):
        if path.exists():
            if not (reason := _unfit(path, made_by)):
                logger.info("going on from %s", path)
                return path
            logger.warning("%s is not gone on from: %s", path, reason)
    return None


def previous_checkpoint(checkpoint: Path) -> Path:
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


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Write the state to a file beside, then put it in place: the last one or the one before is always there."""
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
