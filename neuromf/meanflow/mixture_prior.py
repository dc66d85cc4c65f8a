r"""A mixture of Gaussians with a common covariance: the prior of pairs of image and lesion.

Brains vary in many small ways, as a Gaussian does; a lesion is in one place. Samples of a single Gaussian have a faint
trace of every lesion. Here the data are N(m + mu_k, C) for one of K equally likely centres mu_k, with a common
covariance C along common axes. With s_t^2 = (1 - t)^2 lambda + t^2 along each axis, the velocity at y_t is that of the
Gaussian around the expected centre,

.. math:: v = \frac{t - (1 - t) \lambda}{s_t^2} (y_t - (1 - t) \bar\mu) - \bar\mu, \qquad
          \bar\mu = \sum_k \mathrm{softmax}_k\left(-\frac{|y_t - (1 - t) \mu_k|^2}{2 s_t^2}\right) \mu_k

The average velocity is its mean along the path, integrated numerically along the few axes, without the network.
"""

import torch
from torch import Tensor

from neuromf.meanflow import local_basis
from neuromf.meanflow.gaussian_prior import MIN_VARIANCE, GaussianPrior, principal_axes

STEPS = 16  # midpoint steps from t to r


class MixturePrior(GaussianPrior):
    """Data prediction x(z, t, r) of a mixture along the axes; the residual is Gaussian.

    Arguments:
        gaussian: Arguments of `GaussianPrior`; its variances are those around a centre.
        centres: Centres along the axes, relative to the mean, shape (K, A).
    """

    centres: Tensor

    def __init__(self, *gaussian: Tensor, centres: Tensor, **more_gaussian: Tensor) -> None:
        super().__init__(*gaussian, **more_gaussian)
        self.register_buffer("centres", centres)

    def predict_along_axes(self, along: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Predicted data (B, A) along the axes, relative to the mean, for y_t (B, A)."""
        step, y, u = (t - r)[:, None] / STEPS, along, torch.zeros_like(along)
        for k in range(STEPS):
            now = t[:, None] - k * step
            half = y - step / 2 * self.velocity(y, now)
            v = self.velocity(half, now - step / 2)
            y, u = y - step * v, u + v / STEPS
        return along - t[:, None] * u

    def velocity(self, y: Tensor, t: Tensor) -> Tensor:
        """Instantaneous velocity (B, A) at y (B, A) and times (B, 1)."""
        variance = self.variances.clamp(min=MIN_VARIANCE)
        square = (1 - t) ** 2 * variance + t**2
        logits = (1 - t) * (y / square) @ self.centres.T - (1 - t) ** 2 / 2 * (1 / square) @ (self.centres**2).T
        centre = logits.softmax(1) @ self.centres
        return (t - (1 - t) * variance) / square * (y - (1 - t) * centre) - centre


def fit_mixture_prior(
    mean: Tensor, brains: Tensor, lesions: Tensor, *, n_axes: int, gaussian_fraction: float, variance_floor: Tensor
) -> MixturePrior:
    """Fit the mixture to data mean + brain + lesion, whose brain and lesion parts vary independently.

    Arguments:
        mean: Mean of the data, shape (C, I, J, K).
        brains: Brain parts, shape (N, C, I, J, K).
        lesions: Lesion parts, shape (N, C, I, J, K).
        n_axes: Maximum number of principal axes of the brain parts.
        gaussian_fraction: Fraction of the lesion variance in the Gaussian, in [0, 1]; the remainder is in the centres.
        variance_floor: Variance added to the residual variance of each channel, shape (C,).
    """
    n, shape = len(brains), brains.shape
    centred, lesions = ((part - part.mean(0)).flatten(1).double() for part in (brains, lesions))
    _, axes, variances = principal_axes(centred, n_axes)
    brains, lesions = axes * variances.sqrt()[:, None], lesions / n**0.5  # rows whose Gram matrices are covariances
    both = torch.cat([brains, lesions])
    values, vectors = torch.linalg.eigh(both @ both.T)
    spanned = values > 1e-6 * values[-1]
    basis = (vectors[:, spanned] / values[spanned].sqrt()).T @ both
    spread = torch.cat([brains, gaussian_fraction**0.5 * lesions]) @ basis.T
    variances, eigenvectors = torch.linalg.eigh(spread.T @ spread)
    axes = eigenvectors.T @ basis
    centres = (n * (1 - gaussian_fraction)) ** 0.5 * lesions @ axes.T
    residual = (centred - (centred @ axes.T) @ axes).view(shape)
    parts = (axes, variances.clamp(min=0), *local_basis.eigenbasis(residual, floor=variance_floor), centres)
    axes, variances, residual_variance, eigenvectors, centres = (part.to(mean) for part in parts)
    return MixturePrior(mean, axes, variances, residual_variance, eigenvectors, centres=centres)
