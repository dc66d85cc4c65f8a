"""Training of a VAE with the covariance penalties of DIP-VAE, delayed and gated by active units."""

from typing import Any

import torch
from torch import Tensor

from neuromf.growth.models import BaselineVAE, VAEOutput
from neuromf.growth.module import VAELitModule
from neuromf.vae.collapse import AU_FRACTION
from neuromf.vae.dip import ESTIMATORS, PosteriorBank, dip_penalties, unbiased_penalties
from neuromf.vae.schedules import linear


class DIPVAELitModule(VAELitModule):
    """`VAELitModule` and lambda_od sum_{i != j} Cov_ij^2 + lambda_d sum_i (Cov_ii - 1)^2.

    Arguments:
        lambda_od, lambda_d: Final weights of the penalties.
        lambda_start_epoch, lambda_cov_annealing_epochs: Epochs before the linear ramp, and of the ramp.
        dip: "I" (means) or "II" (means and variances).
        dip_estimator: "batch", "bank" (with the last `bank_size` posteriors, detached) or "ustat" (unbiased).
        dip_pairs: "sum" or "mean" over pairs and dimensions.
        dip_gate: "au": the ramp starts once the active units of validation exceed 8 % of d, and the weights are 0
            while they do not; None: no gate.
        compute_in_fp32: Compute covariances in float32 at least.
        use_ddp_gather: Compute covariances of the batch of all processes, with gradient.
        block: Dimensions that are penalised.
        options: See `VAELitModule`.
    """

    gate_epoch: Tensor

    def __init__(
        self,
        model: BaselineVAE,
        *,
        lambda_od: float = 10.0,
        lambda_d: float = 5.0,
        lambda_start_epoch: float = 20,
        lambda_cov_annealing_epochs: float = 40,
        dip: str = "II",
        dip_estimator: str = "batch",
        dip_pairs: str = "sum",
        dip_gate: str | None = None,
        bank_size: int = 512,
        compute_in_fp32: bool = True,
        use_ddp_gather: bool = False,
        block: slice = slice(None),
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if dip_estimator not in ESTIMATORS:
            raise ValueError(f"loss.dip_estimator must be one of {', '.join(ESTIMATORS)}; got {dip_estimator!r}")
        self.targets = {"lambda_od": lambda_od, "lambda_d": lambda_d}
        self.start, self.ramp, self.gated = lambda_start_epoch, lambda_cov_annealing_epochs, dip_gate == "au"
        self.dip, self.estimator, self.pairs = dip, dip_estimator, dip_pairs
        self.fp32, self.use_ddp_gather = compute_in_fp32, use_ddp_gather
        self.block = block
        self.bank = PosteriorBank(len(range(model.z_dim)[block]), bank_size) if dip_estimator == "bank" else None
        self.register_buffer("gate_epoch", torch.tensor(-1))  # first epoch with an open gate; -1: closed
        self.schedules |= {name: self.gated_ramp(name) for name in self.targets}
        self.weights |= dict.fromkeys(self.targets, 0.0)

    def gated_ramp(self, name: str) -> Any:  # noqa: ANN401  # a schedule
        """Schedule of one weight: a linear ramp from `start` or the opening of the gate; 0 behind a closed gate."""

        def at(epoch: float) -> float:
            opened = int(self.gate_epoch) if self.gated else 0
            return 0.0 if opened < 0 else linear(self.targets[name], self.ramp, max(self.start, opened))(epoch)

        return at

    def set_active_units(self, count: float) -> None:
        """Open or close the gate after a validation with `count` active units."""
        if count <= AU_FRACTION * self.model.z_dim:
            self.gate_epoch.fill_(-1)
        elif self.gate_epoch < 0:
            self.gate_epoch.fill_(self.current_epoch + 1)

    def objective(self, batch: dict[str, Any], out: VAEOutput, beta: float) -> dict[str, Tensor]:
        """Terms of the ELBO and cov_penalty, cov_penalty_od, cov_penalty_d, weighted as in the loss."""
        terms = super().objective(batch, out, beta)
        mu, logvar = out.mu[:, self.block], out.logvar[:, self.block]
        if self.use_ddp_gather:
            mu, logvar = self.gather(mu), self.gather(logvar)
        od, d = self.penalties(mu, logvar)
        od, d = self.weights["lambda_od"] * od, self.weights["lambda_d"] * d
        penalty = od + d
        return terms | {
            "loss": terms["loss"] + self.penalty_scale(batch["image"]) * penalty,
            "cov_penalty": penalty,
            "cov_penalty_od": od,
            "cov_penalty_d": d,
        }

    def penalties(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of both penalties; 0 for a validation batch that is too small."""
        if len(mu) < (4 if self.estimator == "ustat" else 2) and not self.training:
            return mu.new_zeros(()), mu.new_zeros(())
        if self.estimator == "ustat":
            od, d = unbiased_penalties(mu, logvar, self.dip)
        else:
            samples = (mu, logvar)
            if self.bank is not None and self.training:
                samples = self.bank.extend(mu, logvar)
                self.bank.push(mu, logvar)
            od, d = dip_penalties(*samples, self.dip, fp32=self.fp32)
        dim = mu.shape[1]
        return (od / (dim * (dim - 1)), d / dim) if self.pairs == "mean" else (od, d)
