"""Linear Gaussian random effects of many patients at once: y_i = X_i (m + b_i) + e, b_i ~ N(0, L L'), e ~ N(0, s^2).

Patients are padded to the same number of visits: rows of `design` and `residual` beyond the visits of a patient are 0.
All computations are in float64, and the n x n covariance of a patient is never formed (Woodbury identity).

References:
    Random-effects models for longitudinal data (Laird and Ware, 1982), Biometrics 38:963
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from neuromf.growth.protocols import Trajectory


class Visits(NamedTuple):
    """Padded visits of P patients."""

    t: Tensor  # months, (P, n)
    y: Tensor  # (P, n), 0 in padding
    mask: Tensor  # (P, n), 1 for visits, 0 for padding

    @property
    def n(self) -> Tensor:
        """Visits of each patient, (P,)."""
        return self.mask.sum(1)


def pad(patients: Sequence[Trajectory]) -> Visits:
    """Visits of patients as padded float64 tensors."""
    n = max(len(p.t) for p in patients)
    rows = np.zeros((3, len(patients), n))
    for k, p in enumerate(patients):
        rows[0, k, : len(p.t)], rows[1, k, : len(p.t)], rows[2, k, : len(p.t)] = p.t, p.y, 1
    return Visits(*torch.from_numpy(rows))


class Conditioned(NamedTuple):
    """Marginal likelihood of the visits, and posterior of b."""

    log_likelihood: Tensor  # (...,)
    mean: Tensor  # (..., q)
    covariance: Tensor  # (..., q, q)


def condition(design: Tensor, residual: Tensor, count: Tensor, factor: Tensor, sigma: Tensor) -> Conditioned:
    """Marginal log-likelihood of y - X m, and posterior of b given it.

    Arguments:
        design: X, shape (..., n, q).
        residual: y - X m, shape (..., n).
        count: Visits of each patient, broadcast with (...,).
        factor: L, shape (..., q, q).
        sigma: Standard deviation s of the noise.
    """
    scaled = design @ factor / sigma  # X L / s
    inner = scaled.mT @ scaled + torch.eye(factor.shape[-1], dtype=design.dtype)
    projected = (scaled.mT @ (residual / sigma)[..., None])[..., 0]
    root = torch.linalg.cholesky(inner)
    solved = torch.cholesky_solve(projected[..., None], root)[..., 0]
    quadratic = (residual / sigma).square().sum(-1) - (projected * solved).sum(-1)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 2 * count * sigma.log()
    log_likelihood = -0.5 * (quadratic + log_det + count * np.log(2 * np.pi))
    mean = (factor @ solved[..., None])[..., 0]
    return Conditioned(log_likelihood, mean, factor @ torch.cholesky_solve(factor.mT.expand_as(inner), root))


def minimise(loss: Callable[[Tensor], Tensor], start: NDArray) -> Tensor:
    """Parameters (p,) in float64 that minimise a loss, by L-BFGS with exact gradients.

    Raises:
        FloatingPointError: If the loss is not finite at the solution.
    """

    def value_and_gradient(x: NDArray) -> tuple[float, NDArray]:
        parameters = torch.from_numpy(np.array(x)).requires_grad_()
        value = loss(parameters)
        (gradient,) = torch.autograd.grad(value, parameters)
        return value.item(), gradient.numpy()

    found = optimize.minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-8}
    )
    if not (np.isfinite(found.fun) and np.isfinite(found.x).all()):
        raise FloatingPointError(f"likelihood of the growth model is {found.fun} at {found.x.round(3).tolist()}")
    return torch.from_numpy(found.x)


def noise_of(logarithm: Tensor) -> Tensor:
    """Standard deviation of the noise, at least 1e-4: values on a line without noise have no likelihood."""
    return logarithm.clamp(min=float(np.log(1e-4))).exp()


def lower_triangle(entries: Tensor, q: int) -> Tensor:
    """Cholesky factor (q, q) of q (q + 1) / 2 entries; those on the diagonal are logarithms."""
    rows, columns = torch.tril_indices(q, q)
    values = torch.where(rows == columns, entries.clamp(-12, 12).exp(), entries)
    return torch.zeros(q, q, dtype=entries.dtype).index_put((rows, columns), values)
