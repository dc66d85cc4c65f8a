"""Training of a VAE whose latent has named parts: volume, location and shape of the tumour, and a residual (Exp3).

Terms beside the ELBO and the DIP penalties of the residual: squared errors of the supervised parts, covariance and
distance correlation across parts, a hinge on variances, and a second reconstruction from the residual alone. Their
weights are in nats per sample beside the summed error of "sum" and "nll".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from neuromf.core.files import write_json
from neuromf.growth.dip_module import DIPVAELitModule
from neuromf.growth.models import BaselineVAE, VAEOutput
from neuromf.growth.partition import RESIDUAL, TARGETS, Partition
from neuromf.growth.semantic_heads import OF_CROPS, SemanticHeads, SemanticTargets, masked_error
from neuromf.metrics.dependence import (
    MIN_SAMPLES,
    cross_covariance,
    distance_correlations,
    largest_correlation,
    variance_hinge,
)
from neuromf.metrics.disentanglement import ode_readiness, r2
from neuromf.nn.decoders import ConvDecoder
from neuromf.vae.collapse import active_units
from neuromf.vae.dip import PosteriorBank
from neuromf.vae.elbo import elbo_terms, squared_error
from neuromf.vae.schedules import decayed, linear

AUX_WIDTH = 16  # unit of the widths of the auxiliary decoder: 128 channels before its first stage
Ramp = tuple[float, float, float]  # final weight, first epoch, epochs of the ramp
SEMANTIC: dict[str, Ramp] = {"vol": (20.0, 30, 40), "loc": (12.0, 80, 40), "shape": (15.0, 120, 50)}


class SemiLitModule(DIPVAELitModule):
    """`DIPVAELitModule` on the residual, and supervision of the other parts.

    Arguments:
        roi_size: Sides I, J, K of the volume.
        partition: Widths of the supervised parts; the residual has all other dimensions.
        isolate: "trunk" for the parts whose error does not reach the encoder before the layer of mu.
        semantic: Weight, first epoch and ramp of the squared error of each part.
        semantic_decay: Fraction that weights decay to, first and last epoch of the decay.
        dcor: Weight, first epoch and ramp of the distance correlations across parts.
        dcor_bank: Earlier samples that distance correlations are computed with.
        lambda_cross, lambda_hinge, lambda_aux: Weights of covariances across parts, hinge and second reconstruction.
        beta_supervised: Weight of the KL divergence of supervised parts, relative to beta.
        curriculum_epochs: Length of the training that the epochs above refer to; they are scaled to `max_epochs`.
        max_epochs: Epochs of the training.
        options: See `DIPVAELitModule`.
    """

    monitors = {"best_readiness": ("diag/ode_readiness", "max")}

    def __init__(
        self,
        model: BaselineVAE,
        *,
        roi_size: Sequence[int],
        partition: Mapping[str, int],
        isolate: Mapping[str, str] | None = None,
        semantic: Mapping[str, Ramp] = SEMANTIC,
        semantic_decay: Ramp = (0.5, 400, 550),
        dcor: Ramp = (5.0, 150, 50),
        dcor_bank: int = 256,
        lambda_cross: float = 1.0,
        lambda_hinge: float = 0.0,
        lambda_aux: float = 0.5,
        beta_supervised: float = 0.0,
        curriculum_epochs: float | None = None,
        max_epochs: int = 200,
        **options: Any,
    ) -> None:
        parts = Partition.of_widths(partition, model.z_dim)
        super().__init__(model, block=parts[RESIDUAL], max_epochs=max_epochs, **options)
        self.parts, self.heads = parts, SemanticHeads(parts)
        self.isolated = {name for name, where in (isolate or {}).items() if where == "trunk"}
        residual = parts[RESIDUAL].stop - parts[RESIDUAL].start
        channels = model.decoder.last.out_channels  # type: ignore[union-attr]  # a convolution
        self.aux = ConvDecoder(channels, residual, [side // 2 for side in roi_size], width=AUX_WIDTH)  # type: ignore[arg-type]
        self.dcor_bank = PosteriorBank(model.z_dim, dcor_bank)
        self.lambda_cross, self.lambda_hinge, self.lambda_aux = lambda_cross, lambda_hinge, lambda_aux
        self.kl_weights = torch.full((model.z_dim,), beta_supervised)
        self.kl_weights[parts[RESIDUAL]] = 1.0
        unit = max_epochs / curriculum_epochs if curriculum_epochs else 1.0
        fraction, first, last = semantic_decay
        for name in parts.supervised:
            weight, start, ramp = semantic[name]
            rise = linear(weight, unit * ramp, unit * start)
            self.schedules[f"semantic_{name}"] = decayed(rise, unit * first, unit * last, fraction)
        self.schedules["dcor"] = linear(dcor[0], unit * dcor[2], unit * dcor[1])
        self.weights |= {name: at(0) for name, at in self.schedules.items()}
        model.encoder.mu.register_forward_pre_hook(self._remember_features)
        self.validated: list[tuple[Tensor, list[str]]] = []

    def _remember_features(self, _: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        self.features = inputs[0]

    def use_data(self, train: Dataset, val: Dataset, data: Mapping[str, Any], run: Path) -> None:
        """Compute the targets of all subjects; the normaliser goes to semantic_targets.json.

        If training crops are random, ln V and the centroid are measured in every crop; shape is that of the first one.
        """
        self.random_crops = bool(data.get("train_margin"))
        self.semantic_targets = SemanticTargets(train, val, data["spacing"])
        write_json(run / "semantic_targets.json", self.semantic_targets.normaliser)

    # --- loss ----------------------------------------------------------------------------------------

    def objective(self, batch: dict[str, Any], out: VAEOutput, beta: float) -> dict[str, Tensor]:
        """Terms of the ELBO and of DIP-VAE, and semantic_{part}, cross, dcor, hinge and aux, weighted."""
        terms = super().objective(batch, out, beta)
        mu, logvar, z = self.gather(out.mu), self.gather(out.logvar), self.gather(out.z)
        costs = self.semantic_costs(batch, out) | self.independence_costs(mu, logvar, z)
        aux = self.auxiliary_cost(batch["image"], out)
        scale = self.penalty_scale(batch["image"]) * self.per_sample(len(out.mu))
        loss = terms["loss"] + scale * torch.stack([*costs.values()]).sum() + aux
        return terms | costs | {"loss": loss, "aux": aux}

    def semantic_costs(self, batch: dict[str, Any], out: VAEOutput) -> dict[str, Tensor]:
        """Weighted mean squared errors of the supervised parts."""
        predicted, costs = self.heads(self.supervised_mean(out.mu)), {}
        for name, value in predicted.items():
            if self.random_crops and self.training and {*TARGETS[name]} <= {*OF_CROPS}:
                targets, present = self.semantic_targets.of_crops(batch["seg"], TARGETS[name], like=value)
            else:
                targets, present = self.semantic_targets.of(batch["id"], TARGETS[name], like=value)
            error = masked_error(self.gather(value), self.gather(targets), self.gather(present))
            costs[f"semantic_{name}"] = self.weights[f"semantic_{name}"] * error
        return costs

    def supervised_mean(self, mu: Tensor) -> Tensor:
        """mu, whose isolated parts have no gradient to the trunk: they come from the detached input of the mu layer."""
        if not self.isolated:
            return mu
        own = self.model.encoder.mu(self.features.detach())
        chosen = torch.zeros(mu.shape[1], dtype=torch.bool, device=mu.device)
        for name in self.isolated:
            chosen[self.parts[name]] = True
        return torch.where(chosen, own, mu)

    def independence_costs(self, mu: Tensor, logvar: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Weighted covariance and distance correlations across parts, and the hinge on variances of z."""
        zero = mu.new_zeros(())
        costs = {"cross": zero, "dcor": zero, "hinge": zero}
        if len(mu) >= 2:
            costs["cross"] = self.lambda_cross * cross_covariance(mu, self.parts)
            costs["hinge"] = self.lambda_hinge * variance_hinge(z)
        samples = self.dcor_bank.extend(mu, logvar)[0] if self.training else mu
        if self.weights["dcor"] and len(samples) >= MIN_SAMPLES:
            pairs = distance_correlations(samples, self.parts)
            costs["dcor"] = self.weights["dcor"] * torch.stack([*pairs.values()]).sum()
        if self.training:
            self.dcor_bank.push(mu, logvar)
        return costs

    def auxiliary_cost(self, x: Tensor, out: VAEOutput) -> Tensor:
        """Weighted error of the image at half resolution, decoded from the residual alone, as if it were full size."""
        if not self.lambda_aux:
            return x.new_zeros(())
        small = F.avg_pool3d(x, 2)
        errors = self.gather(squared_error(small, self.aux(out.z[:, self.block])))
        full = errors * x[0].numel() / small[0].numel()
        terms = elbo_terms(full, self.gather(out.mu), self.gather(out.logvar), 0.0, n=x[0].numel(),
                           reduction=self.reduction, variance=self.variance)  # fmt: skip
        return self.lambda_aux * terms["recon"]

    # --- validation ----------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """Keep the posterior means until the end of the epoch."""
        mu = super().validation_step(batch, index)
        self.validated.append((mu.float(), list(batch["id"])))
        return mu

    def on_validation_epoch_end(self) -> None:
        """Log R^2 of the heads and the ODE readiness of the posterior means."""
        mu, ids = torch.cat([one for one, _ in self.validated]), [name for _, names in self.validated for name in names]
        self.validated.clear()
        scores = {f"r2_{name}": 0.0 for name in TARGETS}  # of parts that there are not
        for name, predicted in self.heads(mu).items():
            targets, present = self.semantic_targets.of(ids, TARGETS[name], like=mu)
            known = present.bool().all(1)
            scores[f"r2_{name}"] = float(r2(targets[known].cpu().numpy(), predicted[known].cpu().numpy()).mean())
        residual = mu[:, self.block]
        score = ode_readiness(**scores, max_correlation=largest_correlation(mu, self.parts),
                              au_fraction=active_units(residual) / residual.shape[1])  # fmt: skip
        self.log_dict({f"diag/{name}": value for name, value in (scores | {"ode_readiness": score}).items()})
