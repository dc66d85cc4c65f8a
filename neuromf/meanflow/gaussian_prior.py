r"""The closed-form flow of a Gaussian, from which a network starts: it only has to learn the deviation.

For data N(m, C) with principal axes a_k and variances lambda_k, the path has variance s_t^2 = (1 - t)^2 lambda + t^2
along each axis, and the flow maps y_t = z_t - (1 - t) m to y_r = (s_r / s_t) y_t. The leading axes span whole volumes.
The residual has a covariance in each block of positions, with closed-form flow along its eigenvectors (`local_basis`).

References:
    Probabilistic Principal Component Analysis (Tipping and Bishop, 1999), J. R. Stat. Soc. B 61, 611
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from neuromf.meanflow import local_basis
from neuromf.meanflow.flow import expand_as

MIN_VARIANCE = 1e-12  # keeps s_t positive at t = 0 where the data have no variance
MAX_ROWS = 4096  # latents that determine the axes: the Gram matrix is N x N


def principal_axes(x: Tensor, n_axes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (...), unit axes (A, D) and variances (A,) of data x (N, ...), where A = min(n_axes, N - 1).

    Computed in float64 from the N x N Gram matrix, since latents have more elements than there are latents.
    """
    mean = x.mean(0)
    centred = (x - mean).flatten(1).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    n_axes = min(n_axes, len(x) - 1)
    values, vectors = values.flip(0)[:n_axes].clamp(min=0), vectors.flip(1)[:, :n_axes]
    axes = nn.functional.normalize(vectors.T @ centred, dim=1)
    return mean, axes.to(x), (values / len(x)).to(x)


def velocity_coefficient(variance: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""Coefficient g of the average velocity g y along each axis, shape (B, A) for variances (A,) and times (B,).

    .. math:: g = \frac{1 - s_r / s_t}{t - r} = \frac{(1 + \lambda)(t + r) - 2 \lambda}{s_t (s_t + s_r)}

    The second form is finite at r = t.
    """
    s_t, s_r = path_std(variance, t), path_std(variance, r)
    t, r, variance = t[:, None], r[:, None], variance.clamp(min=MIN_VARIANCE)
    return ((1 + variance) * (t + r) - 2 * variance) / (s_t * (s_t + s_r))


def path_std(variance: Tensor, t: Tensor) -> Tensor:
    """Standard deviation s_t along each axis, shape (B, A) for variances (A,) and times (B,)."""
    return ((1 - t[:, None]) ** 2 * variance.clamp(min=MIN_VARIANCE) + t[:, None] ** 2).sqrt()


def shrinkage(variance: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Factor 1 - t g that maps y_t to predicted data along each axis, shape (B, A)."""
    return 1 - t[:, None] * velocity_coefficient(variance, t, r)


class Rows(Protocol):
    """Latents in memory or on disk; a slice is a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Tensor: ...


class GaussianPrior(nn.Module):
    """Data prediction x(z, t, r) = z - t u(z, t, r) of a Gaussian: principal axes, and a local covariance off them.

    The residual covariance is large in the cortex, zero outside the brain and far from diagonal. Without it the
    residual would count as noise, and samples would lack its variation.

    Where the residual covariance varies between positions, projection and scaling do not commute, and the flow is an
    approximation: exact at t = 1, where sampling starts, and within 2 % of v elsewhere on brain latents.

    Arguments:
        mean: Mean, shape (C, I, J, K).
        axes: Orthonormal axes, shape (A, C * I * J * K); A may be 0.
        variances: Variances along the axes, shape (A,).
        residual_variance: Residual variances along `eigenvectors`, broadcastable to (C, I, J, K).
        eigenvectors: Eigenvectors of the residual covariance in each block, see `local_basis`, shape (P, D, D); the
            identity if None. They may leave out the last channels, which are then uncorrelated.
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
            eigenvectors = torch.eye(len(mean)).to(mean).expand(mean[0].numel(), -1, -1)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances)
        self.register_buffer("residual_variance", residual_variance.expand_as(mean).clone())
        self.register_buffer("eigenvectors", eigenvectors)

    @classmethod
    def fit(
        cls,
        data: Rows,
        n_axes: int,
        *,
        block: int = 1,
        shrinkage: float = 0.0,
        decomposition: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> "GaussianPrior":
        """Fit the Gaussian to data (N, C, I, J, K) with at most `n_axes` principal axes.

        Of more than `MAX_ROWS` rows, an evenly spaced subset is used.

        Arguments:
            data: Normalised latents.
            n_axes: Maximum number of principal axes.
            block: Positions of a block of the residual covariance along each axis.
            shrinkage: Factor by which residual covariances between different positions are reduced.
            decomposition: Result of `principal_axes` with at least `n_axes` axes of the same data, if at hand.
        """
        x = data[:: -(-len(data) // MAX_ROWS)]
        mean, axes, variances = decomposition or principal_axes(x, n_axes)
        axes, variances = axes[:n_axes], variances[:n_axes]
        centred = (x - mean).flatten(1)
        residual = (centred - (centred @ axes.T) @ axes).view_as(x)
        return cls(mean, axes, variances, *local_basis.eigenbasis(residual, block, shrinkage=shrinkage))

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Predicted x (B, C, I, J, K): the posterior mean at r = t, the endpoint of the flow at r = 0."""
        return self.whiten(z, t, r)[1]

    def whiten(self, z: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Residual of z, whitened to unit covariance at every t, and predicted x; both (B, C, I, J, K)."""
        centred = z - (1 - expand_as(t, z)) * self.mean
        along = centred.flatten(1) @ self.axes.T
        residual = local_basis.to_eigenbasis(centred - (along @ self.axes).view_as(z), self.eigenvectors)
        variance = self.residual_variance.flatten()
        along = self.predict_along_axes(along, t, r)
        whitened, predicted = (
            residual / path_std(variance, t).view_as(z),
            residual * shrinkage(variance, t, r).view_as(z),
        )
        off_axes = local_basis.from_eigenbasis(predicted, self.eigenvectors)
        x = self.mean + (along @ self.axes).view_as(z) + off_axes
        return local_basis.from_eigenbasis(whitened, self.eigenvectors), x

    def predict_along_axes(self, along: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Predicted data (B, A) along the axes, relative to the mean, for y_t (B, A)."""
        return along * shrinkage(self.variances, t, r)

    def posterior_noise(self, a: Tensor, t: Tensor) -> Tensor:
        """Scale a field of unit covariance (B, C, I, J, K) to the posterior covariance of the residual given z_t.

        For residual covariance R that is t^2 R / s_t^2: R at t = 1, zero at t = 0.
        """
        variance = self.residual_variance.flatten()
        std = t[:, None] * variance.sqrt() / path_std(variance, t)
        scaled = local_basis.to_eigenbasis(a, self.eigenvectors) * std.view_as(a)
        return local_basis.from_eigenbasis(scaled, self.eigenvectors)
