"""Gaussian prior of image-mask pairs, from which fine-tuning starts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.mixture_prior import MixturePrior, fit_mixture_prior
from neuromf.nn.lora import Switchable
from neuromf.vae.maisi import LATENT_CHANNELS

KINDS = ("none", "pair", "lesion")
NO_PRIOR = "a network that predicts u has no Gaussian prior to replace; set prior.kind to none"


def widen_prior(prior: GaussianPrior, channels: int) -> GaussianPrior:
    """The same Gaussian with additional channels of mean and variance zero."""
    old, *grid = prior.mean.shape
    padding = (0, 0) * 3 + (0, channels - old)
    axes = F.pad(prior.axes.view(-1, old, *grid), padding).flatten(1)
    mean, residual_variance = F.pad(prior.mean, padding), F.pad(prior.residual_variance, padding)
    return GaussianPrior(mean, axes, prior.variances, residual_variance, prior.eigenvectors)


class ReplacedPrior(Switchable):
    """Prior of pairs in place of the prior of the base network, which is used while the module is not enabled."""

    def __init__(self, old: GaussianPrior, new: GaussianPrior) -> None:
        super().__init__()
        self.old, self.new = old, new

    @property
    def active(self) -> GaussianPrior:
        return self.new if self.enabled else self.old

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.active(z, t, r)

    def whiten(self, z: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return self.active.whiten(z, t, r)

    def posterior_noise(self, a: Tensor, t: Tensor) -> Tensor:
        return self.active.posterior_noise(a, t)


def fit_pair_prior(
    base: GaussianPrior | None,
    x: Tensor,
    *,
    kind: str,
    axes: int,
    gaussian_fraction: float,
    mask_residual_variance: float,
) -> GaussianPrior | None:
    """Gaussian prior of pairs (N, C, I, J, K), or None if the prior of the base network stays.

    Arguments:
        base: Prior of the base network; None if it predicts u.
        kind: none: the prior of the base network. pair: one Gaussian of image and mask together. lesion: brains vary
            as a Gaussian, and each sample has about one of the training lesions (a mixture).
        axes: Largest number of principal axes, of pairs or of brains.
        gaussian_fraction: Fraction of the lesion variance in the Gaussian, for kind lesion. The rest is in the
            component means.
        mask_residual_variance: Variance added to the residual of each mask channel, for kind lesion.
    """
    if kind not in KINDS:
        raise ValueError(f"prior.kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if kind == "none":
        return None
    if base is None:
        raise ValueError(NO_PRIOR)
    if kind == "pair":
        return GaussianPrior.fit(x, axes)
    variance_floor = torch.tensor(per_channel(0.0, mask_residual_variance, x.shape[1]))
    settings: dict[str, Any] = {
        "n_axes": axes,
        "gaussian_fraction": gaussian_fraction,
        "variance_floor": variance_floor,
    }
    return fit_mixture_prior(x.mean(0), *split_brain_and_lesion(x), **settings)


def split_brain_and_lesion(x: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation of pairs (N, C, I, J, K) from their mean, as the sum of a brain part and a lesion part.

    The lesion part has the mask channels, and the image channels where the mask differs from the median mask (lesions
    lie at different places, so the median has none). Its weight rises linearly from 0 to 1 between a quarter and three
    quarters of the largest difference of a pair.
    """
    deviation, mask = x - x.mean(0), x[:, LATENT_CHANNELS:]
    difference = torch.linalg.vector_norm(mask - mask.median(0).values, dim=1, keepdim=True)
    weight = (2 * difference / difference.amax((2, 3, 4), keepdim=True).clamp(min=1e-6) - 0.5).clamp(0, 1)
    lesion = torch.cat([weight * deviation[:, :LATENT_CHANNELS], deviation[:, LATENT_CHANNELS:]], dim=1)
    return deviation - lesion, lesion


def per_channel(image: float, mask: float, channels: int) -> list[float]:
    """One value for each channel of a pair, from the value of image channels and the value of mask channels."""
    return [image] * LATENT_CHANNELS + [mask] * (channels - LATENT_CHANNELS)


def prior_from_state(state: dict[str, Tensor]) -> GaussianPrior | None:
    """The prior of a state dict, which is empty if the prior of the base network was not replaced."""
    if not state:
        return None
    return (MixturePrior if "centres" in state else GaussianPrior)(**state)
