"""Training of the compact autoencoder: wiring, no formulas."""

import torch
from torch import Tensor

from neuromf.fitting import Study
from neuromf.vae import MAISIVAEWrapper, reconstruction_loss


class VAEStudy(Study):
    """Train the compact autoencoder on volumes (N, 1, I, J, K) held in memory."""

    SHOWN = ("intensity", "gradient", "kl")

    def __init__(self, vae: MAISIVAEWrapper, volumes: Tensor, *, kl_weight: float, **study: object) -> None:
        super().__init__(len(volumes), **study)
        self.vae, self.volumes, self.kl_weight = vae.requires_grad_(True).train(), volumes, kl_weight

    def training_step(self, _: object, __: int) -> Tensor:
        chosen = self.choose()
        volume = self.volumes[chosen].to(self.device, torch.float32)
        if torch.rand((), generator=self.draw("mirror")) < 0.5:
            volume = volume.flip(2)
        mean, std = self.vae.encode(volume)
        eps = torch.randn(mean.shape, generator=self.draw("posterior")).to(mean)
        decoded = self.vae.decode(mean + std * eps)
        parts = reconstruction_loss(volume, decoded.float(), mean.float(), std.float(), kl_weight=self.kl_weight)
        self.record(**parts, std=std.float().mean())
        return parts["loss"]
