"""Training of the volume VAE: reconstruction, KL divergence under a controller, imputation and adversaries."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuromf.atlas import losses
from neuromf.atlas.adversary import Adversary, Target, adversary_ramp
from neuromf.atlas.data_module import Batch, MapDataModule
from neuromf.atlas.imputation import ImputationHead
from neuromf.atlas.kl_controller import KLController
from neuromf.atlas.volume_vae import VolumeVAE
from neuromf.nn.ema import EMA
from neuromf.training.module import ResumableModule
from neuromf.vae.elbo import kl_per_dimension, reparameterise
from neuromf.vae.schedules import linear

RAMP_EPOCHS = 100  # epochs that the knots 20 and 80 of the adversary refer to
MEAN_ONLY = 0.2  # fraction of the training in which "gauss" fits means alone


class AtlasModule(ResumableModule):
    """loss = reconstruction + beta KL + imputation_weight imputation + adversaries.

    Arguments:
        model: Volume VAE.
        data: Batches of the training studies.
        beta: First weight of the KL divergence.
        beta_warmup: Fraction of the training in which beta rises linearly from 0; the decoder learns to use z in it.
        kl_mode, kl_target: See `KLController`; target in nats.
        imputation: Imputation head; None for none.
        imputation_weight: Weight of the imputation loss.
        adversary_targets: Fields that the adversaries predict; empty for none.
        adversary_strength: Final weight of the reversed gradient.
        prior: Fraction of the rows without observed foci whose z is drawn from the prior in place of the posterior.
        drop_metadata: Fraction of rows that are trained without any metadata.
        ema_images: Half-life of the weight average in studies.
        cycles: Cosine cycles of the learning rate (warm restarts).
        settings: As of `ResumableModule`.
    """

    PROGRESS = ("loss", "recon", "kl", "bits", "beta")

    def __init__(
        self,
        model: VolumeVAE,
        data: MapDataModule,
        *,
        beta: float = 1.0,
        beta_warmup: float = 0.3,
        kl_mode: str = "corrected",
        kl_target: float = 20.0,
        imputation: ImputationHead | None = None,
        imputation_weight: float = 1.0,
        adversary_targets: Sequence[Target] = (),
        adversary_strength: float = 1.0,
        prior: float = 0.0,
        drop_metadata: float = 0.1,
        ema_images: float = 4000.0,
        cycles: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(len(data), **settings)
        self.model, self.data = model, data
        self.controller = KLController(kl_mode, kl_target, beta)
        self.imputation = imputation
        self.adversary = Adversary(model.z_dim, adversary_targets) if adversary_targets else None
        self.prior = prior
        self.imputation_weight, self.drop_metadata, self.cycles = imputation_weight, drop_metadata, cycles
        self.beta_warmup = linear(1.0, beta_warmup)
        self.strength = adversary_ramp(adversary_strength, RAMP_EPOCHS)
        self.ema = EMA(model, halflife_images=ema_images)
        self.epoch_kl: list[float] = []

    def progress_fraction(self) -> float:
        """Fraction of the training that is done."""
        return int(self.drawn) / max(1, self.steps)

    def beta(self) -> float:
        """Weight of the KL divergence at this step."""
        return self.controller.beta * self.beta_warmup(self.progress_fraction())

    def training_step(self, _: object, __: int) -> Tensor:
        batch = self.data.batch(self.local_rows(self.batch_indices()).numpy(), self.draw("data"))
        moved: Any = (part.to(self.device) if isinstance(part, Tensor) else part for part in batch)
        batch = Batch(*moved)
        terms = self.objective(batch)
        self.check_finite(terms, batch.ids)
        values = {name: value.mean() for name, value in terms.items()}
        self.record(**values, beta=torch.tensor(self.beta()))
        self.epoch_kl.append(float(values["kl"].detach()))
        return values["loss"]

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss per study, (B,), and bits per focus, ()."""
        m, observed, imputation = self.metadata(batch)
        mu, logvar = self.model.encode(batch.image, m, observed)
        noise = torch.randn(mu.shape, generator=self.draw("posterior")).to(mu.device)
        drawn = torch.rand(len(mu), generator=self.draw("prior")).to(mu.device) < self.prior
        from_prior = (drawn & (batch.own.sum(1) == 0))[:, None]
        z = torch.where(from_prior, noise, reparameterise(mu.float(), logvar.float(), noise))
        recon, bits = self.reconstruction(batch, z, m, observed)
        kl = kl_per_dimension(mu, logvar).sum(1) * ~from_prior[:, 0]
        loss = recon + self.beta() * kl + self.imputation_weight * imputation
        terms = {"recon": recon, "kl": kl, "imputation": imputation, "bits": bits}
        if self.adversary is not None:
            strength = self.strength(RAMP_EPOCHS * self.progress_fraction())
            terms["adversary"] = self.adversary.loss(mu.float(), batch.m, batch.observed, strength)
            loss = loss + terms["adversary"]
        return {"loss": loss} | terms

    def metadata(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Metadata with imputed entries, its mask, and the imputation loss, ()."""
        m, observed, loss = batch.m, batch.observed, batch.m.new_zeros(())
        if self.imputation is not None:
            kept = self.imputation.mask_fields(observed, self.draw("masked"))
            loss = self.imputation.loss(m, observed, kept)
            m = self.imputation.sample(m, observed, self.draw("imputed"))
            observed = observed | self.imputation.columns
        dropped = torch.rand(len(m), generator=self.draw("dropped")).to(m.device) < self.drop_metadata
        return m, observed & ~dropped[:, None], loss

    def reconstruction(self, batch: Batch, z: Tensor, m: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction term per study, (B,), and bits per focus, ()."""
        if self.model.recon == "poisson":
            log_intensity = self.model.log_intensity(z, m, observed, batch.own)
            return losses.poisson(batch.counts, log_intensity), losses.bits_per_focus(
                batch.counts, log_intensity.detach()
            )
        decoded = self.model.decode(z, m, observed)[..., self.model.mask]
        bits = losses.bits_per_focus(batch.counts, decoded[:, 0].detach().clamp(min=1e-6).log())
        if self.model.recon == "mse_sum":
            return losses.mse_sum(batch.target, decoded[:, 0]), bits
        logvar = decoded[:, 1] if self.progress_fraction() >= MEAN_ONLY else torch.zeros_like(decoded[:, 1])
        return losses.gauss(batch.target, decoded[:, 0], logvar), bits

    def check_finite(self, terms: dict[str, Tensor], ids: Sequence[str]) -> None:
        """Raise FloatingPointError that names term, step and studies if a term is not finite."""
        for name, value in terms.items():
            if not value.isfinite().all():
                finite = value.isfinite().expand(len(ids)).tolist()
                bad = [one for one, valid in zip(ids, finite, strict=True) if not valid]
                raise FloatingPointError(
                    f"{name} is not finite at step {self.global_step} for studies {bad}; the weights are unchanged: "
                    "lower train.lr, or inspect these studies"
                )

    def on_train_batch_end(self, *args: object) -> None:
        """Update the weight average, and beta at the end of an epoch."""
        self.ema.update(self.model, self.batch, int(self.drawn) * self.batch)
        if len(self.epoch_kl) >= math.ceil(self.n_items / self.batch):
            if self.beta_warmup(self.progress_fraction()) == 1:
                self.controller.update(sum(self.epoch_kl) / len(self.epoch_kl))
            self.epoch_kl = []
        super().on_train_batch_end(*args)

    def lr_factor(self, step: int) -> float:
        """Warm-up and cosine decay, restarted `cycles` times."""
        if self.cycles == 1:
            return super().lr_factor(step)
        period = self.steps / self.cycles
        return self.lr_end + (1 - self.lr_end) * 0.5 * (1 + math.cos(math.pi * (step % period) / period))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["controller"], checkpoint["epoch_kl"] = self.controller.state_dict(), self.epoch_kl

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.controller.load_state_dict(checkpoint["controller"])
        self.epoch_kl = checkpoint["epoch_kl"]
