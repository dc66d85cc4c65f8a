"""VAEs of a volume with several contrasts: `BaselineVAE` and, with the spatial broadcast decoder, `VAESBD`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from neuromf.nn.decoders import BroadcastDecoder, ConvDecoder
from neuromf.nn.resnet3d import ResNetEncoder, add_spectral_norm
from neuromf.vae.elbo import reparameterise

LOGVAR_MAX = 6.0


@dataclass
class VAEOutput:
    """Reconstruction (B, C, I, J, K), posterior and latent (B, d)."""

    x_hat: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


class BaselineVAE(nn.Module):
    """Residual encoder, Gaussian posterior, decoder of transposed or resize convolutions; group normalisation only.

    Arguments:
        z_dim: Latent dimensions d.
        roi_size: Sides I, J, K of the volume.
        input_channels: Modalities C.
        base_filters: Width b of the first stage.
        norm: "GROUP", the only normalisation.
        encoder_depth, decoder_depth: Numbers of stages; None: from `roi_size`.
        encoder_pool: "flatten", "gap" or "moments"; encoder_narrow: channels before flattening.
        upsample: "deconv" or "resize_conv".
        spectral_norm: Spectral normalisation of convolutions, not of the heads.
        gradient_checkpointing: Recompute activations in the backward pass.
        logvar_min: Lower bound of logvar, whose upper bound is then 6; None for no bounds.
    """

    decoder_class = ConvDecoder

    def __init__(
        self,
        z_dim: int,
        roi_size: Sequence[int],
        *,
        input_channels: int = 4,
        base_filters: int = 32,
        norm: str = "GROUP",
        encoder_depth: int | None = None,
        decoder_depth: int | None = None,
        encoder_pool: str = "flatten",
        encoder_narrow: int | None = None,
        upsample: str = "deconv",
        spectral_norm: bool = False,
        gradient_checkpointing: bool = False,
        logvar_min: float | None = None,
    ) -> None:
        super().__init__()
        if norm != "GROUP":
            raise ValueError(f"model.norm must be GROUP: batches are small; got {norm!r}")
        self.z_dim, self.logvar_min = z_dim, logvar_min
        shared: dict[str, Any] = {"width": base_filters, "checkpointing": gradient_checkpointing}
        self.encoder = ResNetEncoder(
            input_channels, z_dim, roi_size, depth=encoder_depth, pool=encoder_pool, narrow=encoder_narrow, **shared
        )
        self.decoder = self.decoder_class(
            input_channels, z_dim, roi_size, depth=decoder_depth, upsample=upsample, **shared
        )
        if spectral_norm:
            add_spectral_norm(self)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, d) of the posterior of x (B, C, I, J, K)."""
        mu, logvar = self.encoder(x)
        return mu, logvar if self.logvar_min is None else logvar.clamp(self.logvar_min, LOGVAR_MAX)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction (B, C, I, J, K) of z (B, d)."""
        return self.decoder(z)

    def forward_full(self, x: Tensor, eps: Tensor | None = None) -> VAEOutput:
        """Reconstruction, posterior and z; z is sampled with noise `eps` in training and the mean in evaluation."""
        mu, logvar = self.encode(x)
        z = reparameterise(mu, logvar, eps) if self.training else mu
        return VAEOutput(self.decode(z), mu, logvar, z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_hat, mu and logvar."""
        out = self.forward_full(x)
        return out.x_hat, out.mu, out.logvar


class VAESBD(BaselineVAE):
    """`BaselineVAE` with the spatial broadcast decoder, whose stages are resize convolutions whatever `upsample` is."""

    decoder_class = BroadcastDecoder
