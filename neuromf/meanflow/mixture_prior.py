r"""A Gaussian about one of several centres: where pairs of image and lesion start from.

Heads differ in many small ways, as a Gaussian does; a lesion is somewhere or it is not. A Gaussian of both draws a
faint trace of every lesion at once and none in full. Here the data are N(m + mu_k, C) for one of K centres mu_k,
equally likely, with one covariance C along common axes. With s_t^2 = (1 - t)^2 lambda + t^2 along each axis, the
velocity at y_t is that of the Gaussian about the centre expected there,

.. math:: v = \frac{t - (1 - t) \lambda}{s_t^2} (y_t - (1 - t) \bar\mu) - \bar\mu, \qquad
          \bar\mu = \sum_k \mathrm{softmax}_k\left(-\frac{|y_t - (1 - t) \mu_k|^2}{2 s_t^2}\right) \mu_k

and the average velocity is a mean of it along the path, which is followed in the few axes alone: no network is asked.
"""

import torch
from torch import Tensor

from neuromf.meanflow.gaussian_prior import MIN_VARIANCE, GaussianPrior, channel_eigenbasis, principal_axes

STEPS = 16  # of the midpoint rule from t to r


class MixturePrior(GaussianPrior):
    """Data prediction x(z, t, r) of data that lie as a Gaussian about one of several centres, off the axes as there.

    Arguments:
        centres: Along the axes, from the mean, with shape (K, A).
        other: Those of `GaussianPrior`; variances are those about a centre.
    """

    centres: Tensor

    def __init__(self, *gaussian: Tensor, centres: Tensor, **other: Tensor) -> None:
        super().__init__(*gaussian, **other)
        self.register_buffer("centres", centres)

    def predict_along_axes(self, along: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Data prediction (B, A) of what is seen along the axes at time t."""
        step, y, u = (t - r)[:, None] / STEPS, along, torch.zeros_like(along)
        for k in range(STEPS):
            now = t[:, None] - k * step
            half = y - step / 2 * self.velocity(y, now)
            v = self.velocity(half, now - step / 2)
            y, u = y - step * v, u + v / STEPS
        return along - t[:, None] * u

    def velocity(self, y: Tensor, t: Tensor) -> Tensor:
        """Instantaneous velocity (B, A) at y of that shape and times (B, 1)."""
        variance = self.variances.clamp(min=MIN_VARIANCE)
        square = (1 - t) ** 2 * variance + t**2
        fit = (1 - t) * (y / square) @ self.centres.T - (1 - t) ** 2 / 2 * (1 / square) @ (self.centres**2).T
        centre = fit.softmax(1) @ self.centres
        return (t - (1 - t) * variance) / square * (y - (1 - t) * centre) - centre


def fit_mixture_prior(
    mean: Tensor, heads: Tensor, lesions: Tensor, *, n_axes: int, gaussian_fraction: float, variance_floor: Tensor
) -> MixturePrior:
    """The mixture of data mean + heads + lesions, (N, C, I, J, K) each, whose parts vary apart from one another.

    Arguments:
        n_axes: At most so many principal axes of the heads are kept.
        gaussian_fraction: Share of the lesions' variance that is Gaussian, in [0, 1]; the rest is one of those given.
        variance_floor: Variance off the axes, of each channel, beside that which heads have there.
    """
    n, shape = len(heads), heads.shape
    whole, lesions = ((part - part.mean(0)).flatten(1).double() for part in (heads, lesions))
    _, axes, variances = principal_axes(whole, n_axes)
    heads, lesions = axes * variances.sqrt()[:, None], lesions / n**0.5  # whose squares add up to covariances
    both = torch.cat([heads, lesions])
    values, vectors = torch.linalg.eigh(both @ both.T)
    spanned = values > 1e-6 * values[-1]
    basis = (vectors[:, spanned] / values[spanned].sqrt()).T @ both
    spread = torch.cat([heads, gaussian_fraction**0.5 * lesions]) @ basis.T
    variances, eigenvectors = torch.linalg.eigh(spread.T @ spread)
    axes = eigenvectors.T @ basis
    centres = (n * (1 - gaussian_fraction)) ** 0.5 * lesions @ axes.T
    off = (whole - (whole @ axes.T) @ axes).view(shape)
    parts = (axes, variances.clamp(min=0), *channel_eigenbasis(off, variance_floor), centres)
    axes, variances, rest, eigenvectors, centres = (part.to(mean) for part in parts)
    return MixturePrior(mean, axes, variances, rest, eigenvectors, centres=centres)
