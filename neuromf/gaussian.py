r"""The flow of Gaussian data in closed form: where a network starts from, so that it learns only what is not Gaussian.

For data N(m, C) with principal axes a_k and variances lambda_k the path has, along each axis, the variance
s_t^2 = (1 - t)^2 lambda + t^2, and its flow maps y_t = z_t - (1 - t) m to y_r = (s_r / s_t) y_t. What lies off the
axes that are taken has a variance of its own in each element, as in factor analysis.

References:
    Probabilistic Principal Component Analysis (Tipping and Bishop, 1999), J. R. Stat. Soc. B 61, 611
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from neuromf.flow import like

SMALLEST = 1e-12  # variance: where data has none, all is noise, and at t = 0 there is nothing to tell apart
FITTED = 4096  # at most so many people say which axes there are: the Gram matrix is people x people


def principal_axes(x: Tensor, n_axes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (...), axes (K, D) of unit length and variances (K,) of data x (N, ...); K = min(n_axes, N - 1).

    The N x N Gram matrix is decomposed, in float64, since latents have more elements than there are people.
    """
    mean = x.mean(0)
    centred = (x - mean).flatten(1).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    n_axes = min(n_axes, len(x) - 1)
    values, vectors = values.flip(0)[:n_axes].clamp(min=0), vectors.flip(1)[:, :n_axes]
    axes = nn.functional.normalize(vectors.T @ centred, dim=1)
    return mean, axes.to(x), (values / len(x)).to(x)


def slope(variance: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""Average velocity of y along an axis, per y, with shape (B, K) for variances (K,) and times (B,).

    .. math:: g = \frac{1 - s_r / s_t}{t - r} = \frac{(1 + \lambda)(t + r) - 2 \lambda}{s_t (s_t + s_r)}

    The second form has no 0 / 0 at r = t.
    """
    t, r, variance = t[:, None], r[:, None], variance.clamp(min=SMALLEST)
    s_t, s_r = (((1 - time) ** 2 * variance + time**2).sqrt() for time in (t, r))
    return ((1 + variance) * (t + r) - 2 * variance) / (s_t * (s_t + s_r))


def kept(variance: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Share of what is seen at time t that data of these variances (K,) has of it, with shape (B, K)."""
    return 1 - t[:, None] * slope(variance, t, r)


class Rows(Protocol):
    """Latents in memory or on disk: a slice of either is a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Tensor: ...


class GaussianFlow(nn.Module):
    """Data prediction x(z, t, r) = z - t u(z, t, r) of the Gaussian with this mean, axes and variances.

    Off the axes every element has a variance of its own: much in cortex, none outside the head. Without it all that
    lies off the axes would count as noise down to t = 0, and samples would have none of it.

    Where elements differ in it, projecting and scaling do not quite commute, and the flow is nearly that of a Gaussian:
    exactly at t = 1, where samples start, and within 1 % of v elsewhere on latents of brains.

    Arguments:
        mean: With shape (C, I, J, K).
        axes: Orthonormal, with shape (A, C * I * J * K); none make it the mean and the rest alone.
        variances: Of the data along the axes, with shape (A,).
        rest: Variances off the axes, with shape (C, I, J, K), or any that broadcasts to it.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, mean: Tensor, axes: Tensor, variances: Tensor, rest: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances)
        self.register_buffer("rest", rest.expand_as(mean).clone())

    @classmethod
    def fitted(cls, data: Rows, n_axes: int) -> "GaussianFlow":
        """The Gaussian of data (N, ...), or of latents that stay on disk, along its first principal axes.

        The rest is the variance that they leave of each element; without axes there is none, and the data is its mean.
        Of more than `FITTED` rows, every so-manyth is taken.
        """
        x = data[:: -(-len(data) // FITTED)]
        mean, axes, variances = principal_axes(x, n_axes)
        left = x.var(0, correction=0) - (variances @ axes**2).view_as(mean)
        return cls(mean, axes, variances, left.clamp(min=0) if n_axes else torch.zeros_like(mean))

    @property
    def n_axes(self) -> int:
        return len(self.variances)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """x (B, C, I, J, K) at z of that shape and times (B,): at r = t the posterior mean, at r = 0 the endpoint."""
        centred = z - (1 - like(t, z)) * self.mean
        along = centred.flatten(1) @ self.axes.T
        off = centred - (along @ self.axes).view_as(z)
        along = along * kept(self.variances, t, r)
        return self.mean + (along @ self.axes).view_as(z) + off * kept(self.rest.flatten(), t, r).view_as(z)
