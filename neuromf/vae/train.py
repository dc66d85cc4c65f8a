"""Training of the compact autoencoder: loss, Lightning module, and the scale of its latents afterwards."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromf.core.files import sha256 as file_sha256
from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import volumes_of_split
from neuromf.training import checkpoints, run_record, trainer
from neuromf.training.module import ResumableModule
from neuromf.vae.equivariance import draw_transform, equivariance_loss
from neuromf.vae.maisi import ARCHITECTURES, MAISIVAEWrapper
from neuromf.vae.sharpness import contrast_loss
from neuromf.vae.weights import build_autoencoder, resolve_weights, save_weights


def train(
    *,
    qc: Path,
    out: Path,
    architecture: str,
    weights: str | None,
    sha256: str | None,
    steps: int,
    batch: int,
    lr: float,
    kl_weight: float,
    precision: str,
    seed: int,
    num_splits: int = 1,
    equivariance_weight: float = 0.0,
    contrast_weight: float = 0.0,
    trained: str = "all",
    code: str = "",
) -> MAISIVAEWrapper:
    """Write and return the frozen autoencoder of a study: stored weights, trained further if `steps` > 0.

    An interrupted training resumes from `out`'s folder `ckpt`; its history is written to history.csv beside `out`.

    Arguments:
        qc: Table of the volumes with their splits; only training participants are used.
        out: Safetensors file to write.
        architecture: "compact" or "published".
        weights: "packaged", a file of weights, or None for random weights.
        sha256: Expected SHA-256 of the file of weights, or None.
        steps: Optimiser steps; 0 takes the stored weights unchanged.
        batch: Volumes per step.
        lr: Peak learning rate.
        kl_weight: Weight of the KL divergence in the loss.
        precision: Lightning precision, "32-true" or "bf16-mixed".
        seed: Seed of the random weights and of all draws.
        num_splits: Pieces in which each convolution is computed, to save memory; stored with the weights.
        equivariance_weight: Weight of the equivariance loss; 0 trains without it.
        contrast_weight: Weight of the loss of local contrast; 0 trains without it.
        trained: "all", or "decoder": the encoder and its latents stay as they are.
        code: Digest of the code; a checkpoint written by other code is not resumed.
    """
    start = resolve_weights(weights, sha256)
    vae = build_autoencoder(ARCHITECTURES[architecture], start, seed=seed, num_splits=num_splits)
    checkpoint = out.parent / "ckpt" / "vae.ckpt"
    if steps:
        volumes = read_volumes(volumes_of_split(read_table(qc), "train"))
        settings: dict[str, Any] = {"steps": steps, "batch": batch, "lr": lr, "seed": seed, "trained": trained}
        loss_weights = {"kl": kl_weight, "equivariance": equivariance_weight, "contrast": contrast_weight}
        settings |= {f"{name}_weight": weight for name, weight in loss_weights.items()}
        module = AutoencoderModule(vae, volumes, **settings)
        provenance = json.dumps([settings, architecture, weights, sha256, precision, num_splits, code, file_sha256(qc)])
        trainer.fit(module, checkpoint=checkpoint, provenance=provenance, keep_checkpoint=True, precision=precision)
        run_record.write_rows(module.history, out.with_name("history.csv"))
        vae.eval().requires_grad_(False)
        if trained == "all":
            standardise_latents(vae, volumes)
    save_weights(vae, out)
    checkpoints.delete_checkpoints(checkpoint)
    return vae


def reconstruction_loss(
    volume: Tensor, reconstruction: Tensor, mean: Tensor, std: Tensor, *, kl_weight: float
) -> dict[str, Tensor]:
    """L1 of intensities, L1 of finite differences along each axis (sharp cortex), and KL divergence to N(0, 1).

    Each term is a mean over elements; the gradient term is summed over the three axes. "loss" is
    intensity + gradient + kl_weight * kl. There is no adversarial term.
    """
    intensity, gradient = intensity_and_gradient(volume, reconstruction)
    kl = 0.5 * (mean**2 + std**2 - 2 * std.log() - 1).mean()
    loss = intensity + gradient + kl_weight * kl
    return {"loss": loss, "intensity": intensity, "gradient": gradient, "kl": kl}


def intensity_and_gradient(volume: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of intensities, and L1 of finite differences summed over the three axes; both are means over elements."""
    intensity = F.l1_loss(reconstruction, volume)
    along = [F.l1_loss(reconstruction.diff(dim=axis), volume.diff(dim=axis)) for axis in (2, 3, 4)]
    return intensity, along[0] + along[1] + along[2]


def image_loss(volume: Tensor, reconstruction: Tensor) -> Tensor:
    """Sum of the intensity and gradient losses, in the precision of `volume`."""
    intensity, gradient = intensity_and_gradient(volume, reconstruction.to(volume))
    return intensity + gradient


class AutoencoderModule(ResumableModule):
    """Training of an autoencoder on volumes (N, 1, I, J, K) in memory; half of them are mirrored.

    Arguments:
        vae: Autoencoder to train.
        volumes: Training volumes, shape (N, 1, I, J, K).
        kl_weight: Weight of the KL divergence.
        equivariance_weight: Weight of the equivariance loss; 0 draws and computes nothing for it.
        contrast_weight: Weight of the loss of local contrast; 0 does not compute it.
        trained: "all", or "decoder".
        settings: As of `ResumableModule`.
    """

    PROGRESS = ("intensity", "gradient", "kl", "equivariance", "contrast")

    def __init__(
        self,
        vae: MAISIVAEWrapper,
        volumes: Tensor,
        *,
        kl_weight: float,
        equivariance_weight: float = 0.0,
        contrast_weight: float = 0.0,
        trained: str = "all",
        **settings: Any,
    ) -> None:
        super().__init__(len(volumes), **settings)
        self.vae, self.volumes = vae.requires_grad_(True).train(), volumes
        if trained == "decoder":
            vae.freeze_encoder()
        self.kl_weight, self.equivariance_weight = kl_weight, equivariance_weight
        self.contrast_weight = contrast_weight

    def training_step(self, _: object, __: int) -> Tensor:
        volume = self.volumes[self.batch_indices()].to(self.device, torch.float32)
        if torch.rand((), generator=self.draw("mirror")) < 0.5:
            volume = volume.flip(2)
        mean, std = self.vae.encode(volume)
        eps = torch.randn(mean.shape, generator=self.draw("posterior")).to(mean)
        latent = mean + std * eps
        reconstruction = self.vae.decode(latent).float()
        terms = reconstruction_loss(volume, reconstruction, mean.float(), std.float(), kl_weight=self.kl_weight)
        if self.equivariance_weight > 0:
            terms["equivariance"] = self.equivariance(latent.float(), volume)
            terms["loss"] = terms["loss"] + self.equivariance_weight * terms["equivariance"]
        if self.contrast_weight > 0:
            terms["contrast"] = contrast_loss(volume, reconstruction)
            terms["loss"] = terms["loss"] + self.contrast_weight * terms["contrast"]
        self.record(**terms, std=std.float().mean())
        return terms["loss"]

    def equivariance(self, latent: Tensor, volume: Tensor) -> Tensor:
        """Equivariance loss of this batch for its random transform."""
        i, j, k = latent.shape[2:]
        transform = draw_transform(self.draw("equivariance"), (i, j, k), splits=self.vae.num_splits)
        return equivariance_loss(self.vae.decode, latent, volume, transform, image_loss)


@torch.no_grad()
def standardise_latents(vae: MAISIVAEWrapper, volumes: Tensor) -> None:
    """Rescale the autoencoder in place: latents of `volumes` get mean 0 and standard deviation 1 per channel.

    A weak KL term leaves latents at any scale. The 1x1 convolutions around the latent absorb shift and scale, so
    reconstructions do not change.

    Arguments:
        volumes: Training volumes, shape (N, 1, I, J, K).
    """
    means = torch.cat([vae.encode(volume[None].float())[0] for volume in volumes])
    centre = means.double().mean((0, 2, 3, 4)).float()
    scale = means.double().std((0, 2, 3, 4)).float()
    net: Any = vae.net  # MONAI does not declare the types of its blocks
    mu, log_var, post = net.quant_conv_mu.conv, net.quant_conv_log_sigma.conv, net.post_quant_conv.conv
    post.bias += torch.einsum("oi...,i->o", post.weight, centre)
    post.weight *= scale.view(1, -1, 1, 1, 1)
    mu.weight /= scale.view(-1, 1, 1, 1, 1)
    mu.bias.copy_((mu.bias - centre) / scale)
    log_var.bias -= 2 * scale.log()
