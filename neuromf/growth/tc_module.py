"""Training of a VAE with a weighted total correlation (beta-TCVAE), for comparison."""

from typing import Any

from torch import Tensor

from neuromf.growth.models import BaselineVAE, VAEOutput
from neuromf.growth.module import VAELitModule
from neuromf.vae.elbo import reparameterise
from neuromf.vae.schedules import linear
from neuromf.vae.total_correlation import decompose_kl


class TCLitModule(VAELitModule):
    """Reconstruction error + mutual information + beta_tc total correlation + dimension-wise KL.

    Arguments:
        n_data: Number of training samples.
        beta_tc, tc_annealing_epochs: Final weight of the total correlation, and epochs of its ramp from 0.
        options: See `VAELitModule`; the KL divergence is logged and has no weight.
    """

    def __init__(
        self, model: BaselineVAE, *, n_data: int, beta_tc: float = 6.0, tc_annealing_epochs: float = 40, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.n_data = n_data
        self.schedules["beta_tc"] = linear(beta_tc, tc_annealing_epochs)
        self.weights["beta_tc"] = self.schedules["beta_tc"](0)

    def objective(self, batch: dict[str, Any], out: VAEOutput, beta: float) -> dict[str, Tensor]:
        """Terms of the ELBO with weight 0 of the KL, and mi, tc, dwkl and beta_tc."""
        terms = super().objective(batch, out, 0.0)
        z = out.z if self.training else reparameterise(out.mu, out.logvar, self.posterior_noise(len(out.mu), 0))
        parts = decompose_kl(self.gather(z), self.gather(out.mu), self.gather(out.logvar), self.n_data)
        cost = parts["mi"] + self.weights["beta_tc"] * parts["tc"] + parts["dwkl"]
        scale = self.penalty_scale(batch["image"]) * self.per_sample(len(z))
        weight = cost.new_tensor(self.weights["beta_tc"])
        return terms | parts | {"loss": terms["loss"] + scale * cost, "beta_tc": weight}
