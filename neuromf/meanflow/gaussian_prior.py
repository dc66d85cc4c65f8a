r"""The flow of Gaussian data in closed form: where a network starts from, so that it learns only what is not Gaussian.

For data N(m, C) with principal axes a_k and variances lambda_k the path has, along each axis, the variance
s_t^2 = (1 - t)^2 lambda + t^2, and its flow maps y_t = z_t - (1 - t) m to y_r = (s_r / s_t) y_t. The axes taken are
those of whole heads. What lies off them has a covariance at each position, of the channels there, and flows alike along
the axes of that.

References:
    Probabilistic Principal Component Analysis (Tipping and Bishop, 1999), J. R. Stat. Soc. B 61, 611
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from neuromf.meanflow.flow import expand_as

MIN_VARIANCE = 1e-12  # variance: where data has none, all is noise, and at t = 0 there is nothing to tell apart
MAX_ROWS = 4096  # at most so many people say which axes there are: the Gram matrix is people x people


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


def channel_eigenbasis(off: Tensor, variance_floor: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """Variances (C, I, J, K) along the axes of the covariance of channels at each position, and these, (C, C, I, J, K).

    Arguments:
        off: What lies off the axes of heads, with shape (N, C, I, J, K).
        variance_floor: Variance of each channel that is added.
    """
    covariance = torch.einsum("ncijk,ndijk->ijkcd", off, off).double() / len(off)
    covariance.diagonal(dim1=3, dim2=4).add_(variance_floor)
    values, vectors = torch.linalg.eigh(covariance)
    return values.clamp(min=0).movedim(3, 0).to(off), vectors.movedim((3, 4), (0, 1)).to(off)


def velocity_coefficient(variance: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""Average velocity of y along an axis, per y, with shape (B, K) for variances (K,) and times (B,).

    .. math:: g = \frac{1 - s_r / s_t}{t - r} = \frac{(1 + \lambda)(t + r) - 2 \lambda}{s_t (s_t + s_r)}

    The second form has no 0 / 0 at r = t.
    """
    s_t, s_r = path_std(variance, t), path_std(variance, r)
    t, r, variance = t[:, None], r[:, None], variance.clamp(min=MIN_VARIANCE)
    return ((1 + variance) * (t + r) - 2 * variance) / (s_t * (s_t + s_r))


def path_std(variance: Tensor, t: Tensor) -> Tensor:
    """Deviation s_t on the path at times (B,) of data with variances (K,), with shape (B, K)."""
    return ((1 - t[:, None]) ** 2 * variance.clamp(min=MIN_VARIANCE) + t[:, None] ** 2).sqrt()


def shrinkage(variance: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Share of what is seen at time t that data of these variances (K,) has of it, with shape (B, K)."""
    return 1 - t[:, None] * velocity_coefficient(variance, t, r)


class Rows(Protocol):
    """Latents in memory or on disk: a slice of either is a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Tensor: ...


class GaussianPrior(nn.Module):
    """Data prediction x(z, t, r) = z - t u(z, t, r) of the Gaussian with this mean, axes, variances and rest.

    Off the axes the channels of a position have a covariance of their own: large in cortex, none outside the head, and
    far from diagonal, as few of the ways in which four channels could differ look like a brain. Without it all that
    lies off the axes would count as noise down to t = 0, and samples would have none of it.

    Where positions differ in it, projecting and scaling do not quite commute, and the flow is nearly that of a
    Gaussian: exactly at t = 1, where samples start, and within 2 % of v elsewhere on latents of brains.

    Arguments:
        mean: With shape (C, I, J, K).
        axes: Orthonormal, with shape (A, C * I * J * K), or none.
        variances: Of the data along the axes, with shape (A,).
        rest: Variances off the axes, with shape (C, I, J, K) or any that broadcasts to it: of the channels, or of what
            `eigenvectors` makes of them.
        eigenvectors: Orthonormal at each position, channels to the axes of their covariance there, with shape (C, C, I, J, K);
            none leave them as they are.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    residual_variance: Tensor
    eigenvectors: Tensor

    def __init__(
        self,
        mean: Tensor,
        axes: Tensor,
        variances: Tensor,
        residual_variance: Tensor,
        eigenvectors: Tensor | None = None,
    ) -> None:
        super().__init__()
        if eigenvectors is None:
            eigenvectors = torch.eye(len(mean)).to(mean).view(len(mean), len(mean), 1, 1, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances)
        self.register_buffer("residual_variance", residual_variance.expand_as(mean).clone())
        self.register_buffer("eigenvectors", eigenvectors.expand(len(mean), *mean.shape).clone())

    @classmethod
    def fit(cls, data: Rows, n_axes: int) -> "GaussianPrior":
        """The Gaussian of data (N, ...), or of latents that stay on disk, along its first principal axes.

        The rest is the covariance of channels that they leave at each position.
        Of more than `MAX_ROWS` rows, every so-manyth is taken.
        """
        x = data[:: -(-len(data) // MAX_ROWS)]
        mean, axes, variances = principal_axes(x, n_axes)
        off = (x - mean).flatten(1)
        return cls(mean, axes, variances, *channel_eigenbasis((off - (off @ axes.T) @ axes).view_as(x)))

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """x (B, C, I, J, K) at z of that shape and times (B,): at r = t the posterior mean, at r = 0 the endpoint."""
        return self.whiten(z, t, r)[1]

    def whiten(self, z: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """What lies off the axes at z, of unit covariance at any time, and x: both (B, C, I, J, K)."""
        centred = z - (1 - expand_as(t, z)) * self.mean
        along = centred.flatten(1) @ self.axes.T
        off = self.to_eigenbasis(centred - (along @ self.axes).view_as(z))
        along = self.predict_along_axes(along, t, r)
        x = (
            self.mean
            + (along @ self.axes).view_as(z)
            + self.from_eigenbasis(off * shrinkage(self.residual_variance.flatten(), t, r).view_as(z))
        )
        return self.from_eigenbasis(off / path_std(self.residual_variance.flatten(), t).view_as(z)), x

    def predict_along_axes(self, along: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Data prediction (B, A) of what is seen along the axes at time t, from the mean."""
        return along * shrinkage(self.variances, t, r)

    def posterior_noise(self, a: Tensor, t: Tensor) -> Tensor:
        """A field of unit covariance (B, C, I, J, K) as one of that which the data has off the axes, given z at time t.

        That is t^2 R / s_t^2 for a rest R: all of it at t = 1, nothing at t = 0, where z is the data.
        """
        left = t[:, None] * self.residual_variance.flatten().sqrt() / path_std(self.residual_variance.flatten(), t)
        return self.from_eigenbasis(self.to_eigenbasis(a) * left.view_as(a))

    def to_eigenbasis(self, a: Tensor) -> Tensor:
        """Channels of each position along the axes of their covariance there; added in order, whatever their number."""
        return sum((a[:, c, None] * self.eigenvectors[c] for c in range(len(self.eigenvectors))), torch.zeros_like(a))

    def from_eigenbasis(self, a: Tensor) -> Tensor:
        """Inverse of `turned`."""
        return sum(
            (a[:, c, None] * self.eigenvectors[:, c] for c in range(len(self.eigenvectors))), torch.zeros_like(a)
        )
