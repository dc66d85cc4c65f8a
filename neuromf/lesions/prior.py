"""The Gaussian prior of image-mask pairs that fine-tuning starts from."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.mixture_prior import MixturePrior, fit_mixture_prior
from neuromf.nn.lora import Switched
from neuromf.vae.maisi import LATENT_CHANNELS


def widen_prior(base: GaussianPrior, channels: int) -> GaussianPrior:
    """The same Gaussian with further channels that are zero without spread."""
    old, *grid = base.mean.shape
    n = channels - old
    more = (0, 0) * 3 + (0, n)
    axes = F.pad(base.axes.view(-1, old, *grid), more).flatten(1)
    turn = F.pad(base.eigenvectors, (*more, 0, n))
    turn[range(old, channels), range(old, channels)] = 1
    return GaussianPrior(F.pad(base.mean, more), axes, base.variances, F.pad(base.residual_variance, more), turn)


class ReplacedPrior(Switched):
    """A Gaussian fitted to other data, beside the one that the base model starts from, which comes back when off."""

    def __init__(self, old: GaussianPrior, new: GaussianPrior) -> None:
        super().__init__()
        self.old, self.new = old, new

    @property
    def taken(self) -> GaussianPrior:
        return self.new if self.enabled else self.old

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.taken(z, t, r)

    def whiten(self, z: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return self.taken.whiten(z, t, r)

    def posterior_noise(self, a: Tensor, t: Tensor) -> Tensor:
        return self.taken.posterior_noise(a, t)


REFITS = ("none", "pair", "lesion")
NO_PRIOR = "a network that predicts u has no Gaussian to refit; set finetune.refit to none"


def fit_pair_prior(
    old: GaussianPrior | None,
    x: Tensor,
    *,
    refit: str,
    axes: int,
    gaussian_fraction: float,
    mask_residual_variance: float,
) -> GaussianPrior | None:
    """The Gaussian that pairs (N, C, I, J, K) start from, in place of that of the run; None for its own.

    Arguments:
        old: That of the run, of its own channels.
        refit: Of `REFITS`. none: its own, and no lesion; pair: images and masks vary together; lesion: heads vary, and
            each has about one of the lesions that were seen.
        axes: Of pairs, or of heads: at most so many, and fewer than pairs.
        gaussian_fraction: Of lesion: share of their variance that is Gaussian.
        mask_residual_variance: Of lesion: variance of mask channels off the axes, in units of a channel's own.
    """
    if refit not in REFITS:
        raise ValueError(f"finetune.refit must be one of {', '.join(REFITS)}; got {refit!r}")
    if refit == "none":
        return None
    if old is None:
        raise ValueError(NO_PRIOR)
    if refit == "pair":
        return GaussianPrior.fit(x, axes)
    variance_floor = torch.tensor(per_channel((0.0, mask_residual_variance), x.shape[1]))
    return fit_mixture_prior(
        x.mean(0),
        *split_brain_and_lesion(x),
        n_axes=axes,
        gaussian_fraction=gaussian_fraction,
        variance_floor=variance_floor,
    )


def split_brain_and_lesion(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (N, C, I, J, K) less their mean as what is of the head and what is of the lesion.

    Of the lesion are the mask's channels, and the image's where the mask differs from that of no lesion: the median of
    all, as lesions are at different places. From a quarter to three quarters of its largest difference more and more.
    """
    off, mask = x - x.mean(0), x[:, LATENT_CHANNELS:]
    differs = torch.linalg.vector_norm(mask - mask.median(0).values, dim=1, keepdim=True)
    window = (2 * differs / differs.amax((2, 3, 4), keepdim=True).clamp(min=1e-6) - 0.5).clamp(0, 1)
    lesion = torch.cat([window * off[:, :LATENT_CHANNELS], off[:, LATENT_CHANNELS:]], dim=1)
    return off - lesion, lesion


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """A value for each channel, from that of image channels and that of mask channels."""
    image, mask = values
    return [image] * LATENT_CHANNELS + [mask] * (channels - LATENT_CHANNELS)


def prior_from_state(state: dict[str, Tensor]) -> GaussianPrior:
    """The Gaussian, or the mixture, of what `save_pair_run` wrote."""
    return (MixturePrior if "centres" in state else GaussianPrior)(**state)
