r"""The flow of Gaussian data in closed form: where a network starts from, so that it learns only what is not Gaussian.

For data N(m, C) with principal axes a_k and variances lambda_k the path has, along each axis, the variance
s_t^2 = (1 - t)^2 lambda + t^2, and its flow maps y_t = z_t - (1 - t) m to y_r = (s_r / s_t) y_t. Axes that are
left out count as lambda = 0: there the data is its mean.
"""

import torch
from torch import Tensor, nn

from neuromf.flow import like

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
    t, r = t[:, None], r[:, None]
    s_t, s_r = (((1 - time) ** 2 * variance + time**2).sqrt() for time in (t, r))
    return ((1 + variance) * (t + r) - 2 * variance) / (s_t * (s_t + s_r))


class GaussianFlow(nn.Module):
    """Data prediction x(z, t, r) = z - t u(z, t, r) of the Gaussian with this mean, axes and variances.

    Arguments:
        mean: With shape (C, I, J, K).
        axes: Orthonormal, with shape (A, C * I * J * K); none make it the mean alone.
        variances: Of the data along the axes, with shape (A,).
    """

    def __init__(self, mean: Tensor, axes: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances)

    @classmethod
    def fitted(cls, x: Tensor, n_axes: int) -> "GaussianFlow":
        """The Gaussian with the mean and the first principal axes of data x (N, ...), or latents that stay on disk.

        Of more than `FITTED` rows, every so-manyth is taken.
        """
        return cls(*principal_axes(x[:: -(-len(x) // FITTED)], n_axes))

    @property
    def n_axes(self) -> int:
        return len(self.variances)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """x (B, C, I, J, K) at z of that shape and times (B,): at r = t the posterior mean, at r = 0 the endpoint."""
        y = (z - (1 - like(t, z)) * self.mean).flatten(1) @ self.axes.T
        y = y * (1 - t[:, None] * slope(self.variances, t, r))
        return self.mean + (y @ self.axes).view_as(z)


class SpreadFlow(GaussianFlow):
    """The same with a little variance off the axes too, alike in all directions of a channel.

    Without it whatever lies off the axes counts as noise down to t = 0. A small one says that at small t it is data,
    and hardly changes one-step samples.

    Arguments:
        rest: Variance off the axes, with shape (C,).
    """

    def __init__(self, mean: Tensor, axes: Tensor, variances: Tensor, rest: Tensor) -> None:
        super().__init__(mean, axes, variances)
        self.register_buffer("rest", rest)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        centred = z - (1 - like(t, z)) * self.mean
        off = centred - ((centred.flatten(1) @ self.axes.T) @ self.axes).view_as(z)
        kept = 1 - t[:, None] * slope(self.rest, t, r)
        return super().forward(z, t, r) + off * kept[:, :, None, None, None]
