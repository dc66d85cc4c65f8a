"""Training of a VAE with the negative ELBO, annealed beta, and both families of log keys.

`train/*` and `val/*` are values of batches as the loss has them; `train_epoch/*` and `val_epoch/*` are means per sample
over an epoch. Validation decodes the posterior mean.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from neuromf.core.distributed import gather, world
from neuromf.core.seeds import generator
from neuromf.growth.models import BaselineVAE, VAEOutput
from neuromf.vae.elbo import elbo_terms, squared_error
from neuromf.vae.schedules import Schedule, constant, linear, make_schedule

logger = logging.getLogger(__name__)

VARIANCE_DECAY = 0.95  # of the moving average of s^2


class VAELitModule(pl.LightningModule):
    """A VAE with the negative ELBO.

    Arguments:
        model: VAE.
        lr: Learning rate of AdamW.
        kl_beta: Final weight of the KL divergence.
        kl_annealing_epochs: Epochs of the ramp, or of all cycles.
        max_epochs: Epochs of the training, which the capacity grows over.
        kl_schedule: "linear", "cyclical" or "constant".
        kl_cycles, kl_cycle_ratio: Cycles and fraction of a cycle in which beta rises.
        kl_free_bits, kl_free_bits_mode, kl_capacity, reduction: See `neuromf.vae.elbo.elbo_terms`.
        sigma: Standard deviation s of "nll", or "learned": moving average of the error, the optimum.
        weight_decay: Weight decay of AdamW.
        seed: Seed of posterior noise, which depends on epoch and batch.
        provenance: Settings, code and data as text; a checkpoint with others is not resumed.
    """

    variance: Tensor
    nonfinite: Tensor
    kl_weights: Tensor | None
    monitors: ClassVar[dict[str, tuple[str, str]]] = {}  # further checkpoints: what they are ranked by, min or max

    def __init__(
        self,
        model: BaselineVAE,
        *,
        lr: float = 1e-4,
        kl_beta: float = 1.0,
        kl_annealing_epochs: float = 40,
        max_epochs: int = 200,
        kl_schedule: str = "linear",
        kl_cycles: int = 4,
        kl_cycle_ratio: float = 0.5,
        kl_free_bits: float = 0.0,
        kl_free_bits_mode: str = "batch_mean",
        kl_capacity: float | None = None,
        reduction: str = "sum",
        sigma: float | str = 0.5**0.5,
        weight_decay: float = 0.01,
        seed: int = 42,
        provenance: str = "",
    ) -> None:
        super().__init__()
        self.model, self.lr, self.kl_beta, self.weight_decay = model, lr, kl_beta, weight_decay
        self.reduction, self.free_bits, self.free_bits_mode = reduction, kl_free_bits, kl_free_bits_mode
        self.seed, self.provenance, self.learned = seed, provenance, sigma == "learned"
        self.register_buffer("variance", torch.tensor(-1.0 if self.learned else float(sigma) ** 2))
        self.register_buffer("kl_weights", None)  # of dimensions, where not all have the same
        self.register_buffer("nonfinite", torch.zeros(()))  # optimiser steps with a gradient that is not finite
        cycles = {"cycles": kl_cycles, "ratio": kl_cycle_ratio} if kl_schedule == "cyclical" else {}
        ramp = [kl_beta] if kl_schedule == "constant" else [kl_beta, kl_annealing_epochs]
        self.schedules: dict[str, Schedule] = {
            "beta": make_schedule(kl_schedule, *ramp, **cycles),
            "expected_kl_floor": constant(kl_free_bits * model.z_dim),
        }
        if kl_capacity is not None:
            self.schedules["capacity"] = linear(kl_capacity, max_epochs)
        self.weights = {name: at(0) for name, at in self.schedules.items()}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_hat, mu and logvar."""
        return self.model(x)

    # --- loss ----------------------------------------------------------------------------------------

    def objective(self, batch: dict[str, Any], out: VAEOutput, beta: float) -> dict[str, Tensor]:
        """Terms of the loss of the global batch; see `elbo_terms`."""
        x = batch["image"]
        errors, n = self.gather(squared_error(x, out.x_hat)), x[0].numel()
        if self.training and self.learned:
            self.update_variance(errors.detach().mean() / n)
        return elbo_terms(
            errors,
            self.gather(out.mu),
            self.gather(out.logvar),
            beta,
            n=n,
            reduction=self.reduction,
            variance=self.variance,
            free_bits=self.free_bits,
            free_bits_mode=self.free_bits_mode,
            capacity=self.weights.get("capacity"),
            kl_weights=self.kl_weights,
        )

    def processes(self) -> tuple[int, int]:
        """Rank and number of processes that divide a batch: one in validation, which every process does in full."""
        return world() if self.training else (0, 1)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of the global batch, with gradient."""
        return gather(rows) if self.training else rows

    def update_variance(self, mse: Tensor) -> None:
        """Moving average of the mean squared error, the s^2 that maximises the likelihood; the first value as it is."""
        decay = VARIANCE_DECAY if self.variance > 0 else 0.0
        self.variance.mul_(decay).add_((1 - decay) * mse.to(self.variance))

    def penalty_scale(self, x: Tensor) -> float:
        """Factor of a penalty in the unit of the loss: "nll" divides the bracket by N."""
        return 1 / x[0].numel() if self.reduction == "nll" else 1.0

    def check_finite(self, terms: dict[str, Tensor], batch: dict[str, Any]) -> None:
        """Raise FloatingPointError that names the term, the step and the subjects if a term is not finite."""
        if bad := [name for name, value in terms.items() if not value.isfinite()]:
            values = ", ".join(f"{name} is {float(terms[name])}" for name in bad)
            raise FloatingPointError(
                f"{values} at step {self.global_step}, epoch {self.current_epoch}, subjects {list(batch['id'])}; the "
                "weights are unchanged: lower train.lr, set train.gradient_clip_val, or inspect these subjects"
            )

    def use_data(self, train: Dataset, val: Dataset, data: Mapping[str, Any], run: Path) -> None:
        """Take notice of the subjects, the section `data` of the preset and the run directory before training."""

    def set_active_units(self, count: float) -> None:
        """Take notice of the active units of a validation; penalties with a gate do."""

    # --- steps ---------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Set and log the weights of this epoch."""
        self.weights = {name: at(self.current_epoch) for name, at in self.schedules.items()}
        for name, value in self.weights.items():
            self.log(f"sched/{name}", value)
        self.log("opt/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def posterior_noise(self, n: int, index: int) -> Tensor:
        """Standard normal noise (n, d) of this process's part of batch `index`."""
        rank, size = self.processes()
        random = generator("posterior", self.seed, self.current_epoch, index)
        return torch.randn(n * size, self.model.z_dim, generator=random)[rank::size]

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        x = batch["image"]
        out = self.model.forward_full(x, self.posterior_noise(len(x), index).to(x.device))
        terms = self.objective(batch, out, self.weights["beta"])
        self.check_finite(terms, batch)
        self.log_terms("train", terms, len(x), names=("loss", "recon", "kl"))
        self.log("train/beta", self.weights["beta"], batch_size=len(x))
        return terms["loss"]

    def validation_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Log the terms of a batch; returns its posterior means."""
        x = batch["image"]
        out = self.model.forward_full(x)
        terms = self.objective(batch, out, self.weights["beta"])
        self.log_terms("val", terms, len(x), names=("loss", "recon", "kl", "kl_raw"))
        self.log("val/beta", self.weights["beta"], batch_size=len(x))
        full = VAELitModule.objective(self, batch, out, self.kl_beta)["loss"]  # ranks best_elbo.ckpt
        self.log("val/elbo_loss", full / self.per_sample(len(x)), batch_size=len(x), on_epoch=True)
        return out.mu

    def per_sample(self, n: int) -> int:
        """Divisor of a term of a batch: its size if the loss is a sum."""
        return n * self.processes()[1] if self.reduction == "sum" else 1

    def log_terms(self, split: str, terms: dict[str, Tensor], n: int, names: tuple[str, ...]) -> None:
        """Log the terms of a batch of n samples, and their means per sample over the epoch."""
        for name in names:
            self.log(f"{split}/{name}", terms[name].detach(), batch_size=n)
        for name, value in terms.items():
            scale = self.per_sample(n) if name in ("loss", "recon") else 1
            if name != "kl":
                key = f"{split}_epoch/{name}"
                self.log(key, value.detach() / scale, on_step=False, on_epoch=True, batch_size=n)

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Log the gradient norm before clipping, and count the steps in which it is not finite."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self.nonfinite += ~norm.isfinite()
        self.log("opt/grad_norm", norm, on_step=False, on_epoch=True, batch_size=1)
        self.log("opt/nonfinite_count", self.nonfinite.clone(), on_step=False, on_epoch=True, batch_size=1,
                 reduce_fx="max")  # fmt: skip

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["provenance"] = self.provenance
