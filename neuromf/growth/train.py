"""Training of a VAE into a run directory.

config_resolved.yaml  train.log  provenance.json
splits/{train,val,test}.csv  cache/
checkpoints/{best,best_elbo,last}.ckpt
logs/metrics.csv  logs/epoch_metrics.csv
recon/epoch_{E}/{id}_{axial,coronal,sagittal}.png
diagnostics/{au,collapse,latent,retention}.csv
"""

import json
import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from neuromf.core.files import sha256, write_json, write_text
from neuromf.core.hardware import device_name, peak_mb
from neuromf.data.multimodal_loaders import build_loaders
from neuromf.growth.callbacks import Diagnostics, EpochTable, Reconstructions
from neuromf.growth.factory import build_module
from neuromf.growth.module import VAELitModule
from neuromf.training.checkpoints import find_checkpoint
from neuromf.training.loggers import make_logger
from neuromf.training.run_record import versions
from neuromf.training.trainer import environment

logger = logging.getLogger(__name__)

DENSE_EPOCHS = {"baseline": 15}  # epochs with diagnostics in each; 30 for other variants


def train(
    *,
    data: dict[str, Any],
    model: dict[str, Any],
    loss: dict[str, Any],
    train: dict[str, Any],
    logging: dict[str, Any],
    name: str = "exp1_baseline_vae",
    out: Path | None = None,
    splits: Path | None = None,
    code: str = "",
) -> Path:
    """Train a VAE and return its run directory; an interrupted training with the same settings resumes.

    Arguments:
        data, model, loss, train, logging: Sections of a preset, see `neuromf.config.growth_model`.
        name: Name of the preset.
        out: Run directory; by default a new one with a time stamp in logging.save_dir.
        splits: Folder of the CSVs of an earlier index, in place of data.root_dir.
        code: Digest of the code; a checkpoint of other code is not resumed.

    Raises:
        ValueError: If a setting is not known or no subject can be used.
        FloatingPointError: If a term of the loss is not finite.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run = Path(out) if out else Path(logging["save_dir"]) / f"{stamp}_{name}"
    config: dict[str, Any] = {"data": data, "model": model, "loss": loss, "train": train, "logging": logging}
    run.mkdir(parents=True, exist_ok=True)
    with log_file(run / "train.log"):
        pl.seed_everything(train["seed"], workers=True, verbose=False)
        write_text(run / "config_resolved.yaml", yaml.safe_dump({"name": name, **config}, sort_keys=False))
        loaders = build_loaders(run, **data, seed=train["seed"], splits=splits)
        provenance = json.dumps([config, code, data_hash(run)], sort_keys=True)
        n_train = len(loaders[0].dataset)  # type: ignore[arg-type]  # a list of subjects
        module = build_module(
            roi_size=data["roi_size"], model=model, loss=loss, train=train, n_train=n_train, provenance=provenance
        )
        started = time.monotonic()
        fit(module, *loaders, run=run, **config)
        record = {"git": git_revision(), "data": data_hash(run), "versions": versions(), "code": code, "name": name,
                  "modalities": data["modalities"], "seconds": round(time.monotonic() - started, 1),
                  "peak_mb": peak_mb(), "device": device_name()}  # fmt: skip
        write_json(run / "provenance.json", record)
    return run


def fit(
    module: VAELitModule,
    train_loader: DataLoader,
    val_loader: DataLoader,
    *,
    run: Path,
    data: dict[str, Any],
    model: dict[str, Any],
    loss: dict[str, Any],
    train: dict[str, Any],
    logging: dict[str, Any],
) -> pl.Trainer:
    """Train a module with all callbacks and files of the run directory; resumes from checkpoints/last.ckpt."""
    resumed = find_checkpoint(run / "checkpoints" / "last.ckpt", module.provenance)
    wandb = make_logger("wandb" if logging.get("wandb", "off") == "offline" else "csv", run)
    dense = DENSE_EPOCHS.get(model.get("variant", "baseline"), 30)
    names = data["modalities"]
    trainer = pl.Trainer(
        max_epochs=train["max_epochs"],
        limit_train_batches=train.get("steps_per_epoch") or 1.0,
        precision=train["precision"],
        accelerator=train.get("accelerator") or "auto",
        devices=(devices := train.get("devices") or 1),
        plugins=[environment(devices)],
        use_distributed_sampler=False,  # the sampler divides batches
        gradient_clip_val=train.get("gradient_clip_val"),
        logger=loggers(run, resumed, tensorboard=logging.get("tensorboard", False)),
        log_every_n_steps=max(1, min(10, len(train_loader))),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            Reconstructions(run / "recon", names, logging["recon_every_n_epochs"], logging["num_recon_samples"]),
            Diagnostics(
                run / "diagnostics", val_loader, names, data["spacing"], dense_epochs=dense, seed=train["seed"]
            ),
            EpochTable(run / "logs" / "epoch_metrics.csv", wandb),
            *checkpoints(run / "checkpoints", module),
        ],  # fmt: skip
    )
    report_precision(train["precision"], trainer)
    module.use_data(train_loader.dataset, val_loader.dataset, data, run)
    trainer.fit(module, train_loader, val_loader, ckpt_path=resumed, weights_only=True)
    if wandb:
        wandb.finish()
    return trainer


def checkpoints(folder: Path, module: VAELitModule) -> list[ModelCheckpoint]:
    """best.ckpt: lowest val/loss; best_elbo.ckpt: lowest negative ELBO at the final beta; those of the module; last."""
    ranked = {"best": ("val/loss", "min"), **module.monitors, "best_elbo": ("val/elbo_loss", "min")}
    shared: dict[str, Any] = {"dirpath": folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
    return [
        ModelCheckpoint(monitor=monitor, mode=mode, filename=name, save_last=name == "best_elbo", **shared)
        for name, (monitor, mode) in ranked.items()
    ]


def loggers(run: Path, resumed: Path | None, *, tensorboard: bool = False) -> list[Logger]:
    """CSV logger of logs/metrics.csv, which keeps the rows of an interrupted run, and TensorBoard if asked for."""
    path = run / "logs" / "metrics.csv"
    step = torch.load(resumed, map_location="cpu", weights_only=True, mmap=True)["global_step"] if resumed else 0
    rows = pd.read_csv(path) if resumed and path.exists() else pd.DataFrame({"step": []})
    path.unlink(missing_ok=True)
    table = CSVLogger(run, name="logs", version="")
    for row in rows[rows["step"] < step].to_dict("records"):
        known = {str(name): value for name, value in row.items() if pd.notna(value)}
        table.experiment.metrics.append(known)
    return [table, *([TensorBoardLogger(run, name="tensorboard", version="")] if tensorboard else [])]


def report_precision(wanted: str, trainer: pl.Trainer) -> None:
    """Log that half precision on a CPU is bfloat16, and what the gradient scaler does to the first steps of a sum."""
    if wanted == "16-mixed":
        logger.info(
            "train.precision is 16-mixed and runs as %s on this device; under float16 the gradient scaler skips the "
            "first steps of a summed loss", trainer.precision,
        )  # fmt: skip


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Copy messages of the library and of Lightning to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    owners = [logging.getLogger(name) for name in ("neuromf", "pytorch_lightning")]
    levels = [owner.level for owner in owners]
    for owner in owners:
        owner.addHandler(handler)
        owner.setLevel(logging.INFO)
    try:
        yield
    finally:
        for owner, level in zip(owners, levels, strict=True):
            owner.removeHandler(handler)
            owner.setLevel(level)
        handler.close()


def data_hash(run: Path) -> str:
    """SHA-256 digests of the tables of splits, as one text."""
    return " ".join(sha256(path)[:16] for path in sorted((run / "splits").glob("*.csv")))


def git_revision() -> str:
    """Commit of the working tree; "" outside a repository."""
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip()
