"""Training of the compact autoencoder: its loss, the wiring, and the scale of its latents afterwards."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromf.training.module import ResumableModule
from neuromf.vae.maisi import MAISIVAEWrapper


def reconstruction_loss(
    volume: Tensor, decoded: Tensor, mean: Tensor, std: Tensor, *, kl_weight: float
) -> dict[str, Tensor]:
    """L1 of intensities, L1 of their differences along each axis (sharp cortex), and KL to N(0, 1).

    Each part is a mean over elements, the gradient part summed over the three axes; "loss" is
    intensity + gradient + kl_weight * KL. No adversary.
    """
    intensity = F.l1_loss(decoded, volume)
    along = [F.l1_loss(decoded.diff(dim=axis), volume.diff(dim=axis)) for axis in (2, 3, 4)]
    gradient = along[0] + along[1] + along[2]
    kl = 0.5 * (mean**2 + std**2 - 2 * std.log() - 1).mean()
    return {
        "loss": intensity + gradient + kl_weight * kl,
        "intensity": intensity,
        "gradient": gradient,
        "kl": kl,
    }


class AutoencoderModule(ResumableModule):
    """Train the compact autoencoder on volumes (N, 1, I, J, K) held in memory."""

    SHOWN = ("intensity", "gradient", "kl")

    def __init__(self, vae: MAISIVAEWrapper, volumes: Tensor, *, kl_weight: float, **study: Any) -> None:
        super().__init__(len(volumes), **study)
        self.vae, self.volumes, self.kl_weight = vae.requires_grad_(True).train(), volumes, kl_weight

    def training_step(self, _: object, __: int) -> Tensor:
        chosen = self.batch_indices()
        volume = self.volumes[chosen].to(self.device, torch.float32)
        if torch.rand((), generator=self.draw("mirror")) < 0.5:
            volume = volume.flip(2)
        mean, std = self.vae.encode(volume)
        eps = torch.randn(mean.shape, generator=self.draw("posterior")).to(mean)
        decoded = self.vae.decode(mean + std * eps)
        parts = reconstruction_loss(volume, decoded.float(), mean.float(), std.float(), kl_weight=self.kl_weight)
        self.record(**parts, std=std.float().mean())
        return parts["loss"]


@torch.no_grad()
def standardise(vae: MAISIVAEWrapper, volumes: Tensor) -> None:
    """Give latents mean 0 and standard deviation 1 per channel over these volumes, exactly, in place.

    A weak KL term leaves a trained autoencoder's latents at any scale; the 1x1 convolutions around the latent
    absorb scale and shift, so that no reconstruction changes.
    """
    means = torch.cat([vae.encode(volume[None].float())[0] for volume in volumes])
    centre = means.double().mean((0, 2, 3, 4)).float()
    scale = means.double().std((0, 2, 3, 4)).float()
    net: Any = vae.net  # what stands in MONAI's blocks is not declared
    mu, log_sigma, post = net.quant_conv_mu.conv, net.quant_conv_log_sigma.conv, net.post_quant_conv.conv
    post.bias += torch.einsum("oi...,i->o", post.weight, centre)
    post.weight *= scale.view(1, -1, 1, 1, 1)
    mu.weight /= scale.view(-1, 1, 1, 1, 1)
    mu.bias.copy_((mu.bias - centre) / scale)
    log_sigma.bias -= 2 * scale.log()  # this convolution gives the logarithm of the variance
