"""Gaussian processes of log-volume over time: one per patient with shared hyperparameters, and a hierarchical one.

References:
    Gaussian Processes for Machine Learning (Rasmussen and Williams, 2006), sections 2.7 and 4.2
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.growth.comparators import Comparator
from neuromf.growth.protocols import Case, Trajectory
from neuromf.growth.random_effects import Visits, minimise, pad


def matern52(distance: Tensor, length: Tensor) -> Tensor:
    """Matern kernel of smoothness 5/2 with unit variance."""
    r = 5**0.5 * distance / length
    return (1 + r + r.square() / 3) * torch.exp(-r)


class ScalarProcess(Comparator):
    """Each patient is a draw of one process: Matern 5/2 kernel about a common mean, plus noise.

    Hyperparameters maximise the restricted likelihood of all training patients; the mean is the generalised
    least-squares mean, whose variance is part of a forecast.
    """

    name, title = "M5", "GP"
    start: tuple[float, ...] = (0.0, 4.0, -2.5)  # log of standard deviation, length-scale in months, noise

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        visits = pad(patients)

        def loss(x: Tensor) -> Tensor:
            self.log = x
            return -self._restricted(visits)[0] / len(patients)

        self.log = minimise(loss, np.array(self.start))
        with torch.no_grad():
            _, self.mean, information = self._restricted(visits)
            self.mean_covariance = torch.linalg.inv(information)

    def trend(self, t: Tensor) -> Tensor:
        """Basis of the population mean, (..., 1)."""
        return torch.ones_like(t)[..., None]

    def kernel(self, s: Tensor, t: Tensor) -> Tensor:
        """Covariance of a patient's process at times s (..., n) and t (..., m)."""
        distance = (s[..., :, None] - t[..., None, :]).abs()
        return (2 * self.log[0]).exp() * matern52(distance, self.log[1].exp())

    def _root(self, visits: Visits) -> Tensor:
        """Cholesky factor of the covariance of visits, with padding as independent unit variances."""
        pairs = visits.mask[:, :, None] * visits.mask[:, None, :]
        noise = visits.mask * (2 * self.log[2]).exp() + (1 - visits.mask)
        jitter = 1e-9 * (2 * self.log[0]).exp()
        return torch.linalg.cholesky(self.kernel(visits.t, visits.t) * pairs + torch.diag_embed(noise + jitter))

    def _restricted(self, visits: Visits) -> tuple[Tensor, Tensor, Tensor]:
        """Restricted log-likelihood, mean coefficients, and their information."""
        root, basis = self._root(visits), self.trend(visits.t) * visits.mask[..., None]
        x = torch.linalg.solve_triangular(root, basis, upper=False)
        y = torch.linalg.solve_triangular(root, visits.y[..., None], upper=False)
        information, weighted = (x.mT @ x).sum(0), (x.mT @ y).sum(0)[:, 0]
        mean = torch.linalg.solve(information, weighted)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum()
        return -0.5 * (y.square().sum() - mean @ weighted + log_det + torch.logdet(information)), mean, information

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        visits = pad([case.past for case in cases])
        t = torch.tensor([[case.t] for case in cases], dtype=torch.float64)
        root, basis = self._root(visits), self.trend(visits.t) * visits.mask[..., None]
        cross = self.kernel(visits.t, t) * visits.mask[..., None]  # (N, n, 1)
        gain = torch.cholesky_solve(cross, root)
        residual = visits.y - (basis @ self.mean[:, None])[..., 0]
        mean = self.trend(t)[:, 0] @ self.mean + (gain[..., 0] * residual).sum(1)
        fixed = self.trend(t)[:, 0] - (gain.mT @ basis)[:, 0]
        variance = self.kernel(t, t)[:, 0, 0] - (gain * cross).sum((1, 2)) + (2 * self.log[2]).exp()
        variance = variance + ((fixed @ self.mean_covariance) * fixed).sum(1)
        return mean.numpy(), variance.clamp(min=1e-12).sqrt().numpy()


class HierarchicalProcess(ScalarProcess):
    """A population line, and per patient an intercept, a slope and a Matern 5/2 deviation from it."""

    name, title = "M6", "hierarchical GP"
    start = (-2.0, 3.0, -2.5, 0.0, -4.0)  # and log of the standard deviations of intercept and slope per month

    def trend(self, t: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(t), t / 12], -1)

    def kernel(self, s: Tensor, t: Tensor) -> Tensor:
        line = (2 * self.log[3]).exp() + (2 * self.log[4]).exp() * s[..., :, None] * t[..., None, :]
        return super().kernel(s, t) + line
