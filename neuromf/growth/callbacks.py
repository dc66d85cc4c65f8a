"""Callbacks of a training: reconstructions as PNG, diagnostics of the latent space, one tidy row per epoch."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from neuromf.core.distributed import world
from neuromf.core.files import atomic_write
from neuromf.core.seeds import generator
from neuromf.growth.module import VAELitModule
from neuromf.growth.probes import cross_probe, volume_and_centroid
from neuromf.metrics.images.masked import WINDOW, masked_similarity
from neuromf.training.loggers import WandbLogger
from neuromf.vae.collapse import bypass_ratio, posterior_statistics, verdict
from neuromf.vae.elbo import kl_per_dimension, reparameterise

logger = logging.getLogger(__name__)

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # axis of RAS+ arrays that is cut
SHIFT = 5  # voxels


class Reconstructions(pl.Callback):
    """PNGs of input, reconstruction and absolute difference of every modality, in three central planes.

    Arguments:
        folder: Folder recon of the run.
        modalities: Names of the channels.
        every: Epochs between two sets.
        n: Samples of the first validation batch.
    """

    def __init__(self, folder: Path, modalities: Sequence[str], every: int, n: int) -> None:
        self.folder, self.modalities, self.every, self.n = folder, modalities, every, n

    @torch.no_grad()
    def on_validation_batch_end(  # type: ignore[override]  # of modules of this package
        self, trainer: pl.Trainer, module: VAELitModule, outputs: object, batch: dict, index: int, *_: object
    ) -> None:
        if index or trainer.current_epoch % self.every or not trainer.is_global_zero:
            return
        x = batch["image"][: self.n]
        x_hat = module.model(x)[0].float()
        folder = self.folder / f"epoch_{trainer.current_epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, image, estimate in zip(batch["id"], x.cpu().numpy(), x_hat.cpu().numpy(), strict=False):
            for plane, axis in PLANES.items():
                self.save(folder / f"{name}_{plane}.png", image, estimate, axis)

    def save(self, path: Path, image: np.ndarray, estimate: np.ndarray, axis: int) -> None:
        """One PNG: a row per modality, with input, reconstruction and difference."""
        from matplotlib.figure import Figure

        fig = Figure(figsize=(4.5, 1.5 * len(self.modalities)), layout="constrained")
        axes = fig.subplots(len(self.modalities), 3, squeeze=False)
        for row, name, channel, other in zip(axes, self.modalities, image, estimate, strict=True):
            panels = [np.take(one, one.shape[axis] // 2, axis).T for one in (channel, other, np.abs(channel - other))]
            low, high = np.percentile(channel, [0.5, 99.5])
            limits = [(low, high), (low, high), (0, high - low)]
            for ax, panel, (vmin, vmax), title in zip(row, panels, limits, ("input", "recon", "|diff|"), strict=True):
                ax.imshow(panel, cmap="gray", vmin=vmin, vmax=vmax, origin="lower")
                ax.set(xticks=[], yticks=[])
                ax.set_title(f"{name} {title}", fontsize=7)
        fig.savefig(path, dpi=100)


def diagnose(module: VAELitModule, batches: Iterable[dict], spacing_mm: Sequence[float], seed: int) -> dict[str, float]:
    """Diagnostics of the latent space on batches of subjects: the keys of `diag/*`, kl_raw, and probes of the tumour.

    Arguments:
        spacing_mm: Voxel size, for the volume of the tumour.
        seed: Seed of the posterior sample.
    """
    model, device = module.model.eval(), module.device
    random, parts, patients = generator("diagnostics", seed), [], []  # type: ignore[var-annotated]
    errors: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            x = batch["image"].to(device)
            mu, logvar = model.encode(x)
            z = reparameterise(mu, logvar, torch.randn(mu.shape, generator=random))
            decoded = [model.decode(one).float() for one in (mu, torch.zeros_like(mu), z)]
            shifted = torch.stack([model.encode(x.roll(SHIFT, axis))[0] for axis in (2, 3, 4)])
            gap = (decoded[0] - decoded[2]).abs()
            errors.append(
                torch.stack([*((one - x).square().flatten(1).mean(1) for one in decoded[:2]), gap.flatten(1).mean(1)])
            )
            parts.append([mu, logvar, (shifted - mu).abs().mean(0), volume_and_centroid(batch["seg"], spacing_mm)])
            patients += batch["patient"]
    mu, logvar, shift, targets = (torch.cat(column).float().cpu() for column in zip(*parts, strict=True))
    mse_mu, mse_zero, sampled = torch.cat(errors, 1).mean(1).tolist()
    volume, centroid = cross_probe(mu.numpy(), targets.numpy(), patients)
    return posterior_statistics(mu, logvar) | {
        "kl_raw": float(kl_per_dimension(mu, logvar).sum(1).mean()),
        "recon_mu_mse": mse_mu,
        "recon_z0_mse": mse_zero,
        "recon_delta_mu_vs_sampled": sampled,
        "bypass_ratio": bypass_ratio(mse_mu, mse_zero),
        "shift_sensitivity": float((shift / mu.std(0, correction=0).clamp(min=1e-6)).mean()),
        "probe_log_volume": volume,
        "probe_centroid": centroid,
    }


class Rows(pl.Callback):
    """Callback whose rows are part of a checkpoint."""

    rows: list[dict[str, Any]]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class Diagnostics(Rows):
    """Active units, collapse, probes and similarity on a fixed subset of validation, in `diag/*` and three tables.

    Evaluated in every epoch before `dense_epochs` and in every fifth after it, and in the last.

    Arguments:
        folder: Folder diagnostics of the run: au.csv, collapse.csv, latent.csv.
        loader: Validation loader.
        modalities: Names of the channels.
        spacing_mm: Voxel size.
        dense_epochs: Epochs with diagnostics in each.
        n: Largest size of the subset.
        seed: Seed of the subset.
    """

    TABLES = {
        "au": ("au_count", "au_frac", "mu_var_mean"),
        "collapse": ("kl_raw", "recon_mu_mse", "recon_z0_mse", "recon_delta_mu_vs_sampled", "bypass_ratio", "floor",
                     "verdict", "failing", "reading", "next"),
        "latent": ("logvar_mean", "z_std", "shift_sensitivity", "probe_log_volume", "probe_centroid"),
    }  # fmt: skip

    def __init__(
        self,
        folder: Path,
        loader: DataLoader,
        modalities: Sequence[str],
        spacing_mm: Sequence[float],
        *,
        dense_epochs: int = 15,
        n: int = 64,
        seed: int = 0,
    ) -> None:
        size = len(loader.dataset)  # type: ignore[arg-type]  # a list of subjects
        chosen = torch.randperm(size, generator=generator("diagnosed", seed))[:n].sort().values.tolist()
        self.batches: DataLoader = DataLoader(
            Subset(loader.dataset, chosen), batch_size=loader.batch_size, collate_fn=loader.collate_fn
        )
        self.folder, self.modalities, self.spacing_mm, self.seed = folder, modalities, spacing_mm, seed
        self.dense_epochs, self.rows = dense_epochs, []

    def due(self, epoch: int, max_epochs: int) -> bool:
        """Whether an epoch has diagnostics."""
        return epoch < self.dense_epochs or epoch % 5 == 0 or epoch == max_epochs - 1

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: VAELitModule) -> None:  # type: ignore[override]
        epoch = trainer.current_epoch
        if not self.due(epoch, trainer.max_epochs or -1):
            return
        values = diagnose(module, self.batches, self.spacing_mm, self.seed)
        found = verdict(values, module.model.z_dim, module.weights["expected_kl_floor"])
        module.log_dict({f"diag/{name}": value for name, value in values.items() if name != "kl_raw"})
        module.log_dict({f"val_epoch/{name}": value for name, value in self.similarity(module).items()})
        module.set_active_units(values["au_count"])
        floor = module.weights["expected_kl_floor"]
        self.rows.append({"epoch": epoch, **values, "floor": floor, **found.columns()})
        logger.info("epoch %d: %s; %s", epoch, found.state, "; ".join(found.reading) or "no sign of collapse")
        if trainer.is_global_zero:
            for name, columns in self.TABLES.items():
                write_table(self.folder / f"{name}.csv", pd.DataFrame(self.rows)[["epoch", *columns]])

    @torch.no_grad()
    def similarity(self, module: VAELitModule) -> dict[str, float]:
        """Mean SSIM and PSNR by modality of decoded posterior means inside the brain."""
        rows = []
        for batch in self.batches:
            x = batch["image"].to(module.device)
            if min(x.shape[2:]) < WINDOW:
                return {}
            rows.append(torch.stack(masked_similarity(x, module.model(x)[0].float()), 1))
        psnr, ssim = torch.cat(rows).mean(0).tolist()
        return {f"{kind}_{name}": value for kind, values in (("ssim", ssim), ("psnr", psnr))
                for name, value in zip(self.modalities, values, strict=True)}  # fmt: skip


class EpochTable(Rows):
    """One row per epoch with every logged value that has a mean over the epoch; complete after a resume, too.

    Arguments:
        path: File logs/epoch_metrics.csv of the run.
        wandb: Offline Weights & Biases run, or None.
    """

    def __init__(self, path: Path, wandb: WandbLogger | None = None) -> None:
        self.path, self.wandb = path, wandb
        self.rows = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **dict(sorted(values.items()))})
        if world()[0] == 0:
            write_table(self.path, pd.DataFrame(self.rows))
            if self.wandb:
                self.wandb.log(self.rows)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        table.to_csv(part, index=False, float_format="%.8g", lineterminator="\n")
