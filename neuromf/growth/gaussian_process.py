"""Gaussian processes of log-volume over time with shared hyperparameters: Matern, linear mixed effects, hierarchical.

Random intercepts and slopes are a process with a linear kernel, so all three share restricted likelihood and forecast,
the empirical best linear unbiased prediction with the variance of random effects, estimated fixed effects, and noise.

References:
    Gaussian Processes for Machine Learning (Rasmussen and Williams, 2006), sections 2.7 and 4.2
    Random-effects models for longitudinal data (Laird and Ware, 1982), Biometrics 38:963
    That BLUP is a good thing: the estimation of random effects (Robinson, 1991), Statist Sci 6:15
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.growth.comparators import Comparator
from neuromf.growth.protocols import Case, Trajectory
from neuromf.growth.random_effects import Visits, lower_triangle, minimise, noise_of, pad


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

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the noise."""
        return noise_of(self.log[2])

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
        noise = visits.mask * self.sigma**2 + (1 - visits.mask)
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
        variance = self.kernel(t, t)[:, 0, 0] - (gain * cross).sum((1, 2)) + self.sigma**2
        variance = variance + ((fixed @ self.mean_covariance) * fixed).sum(1)
        return mean.numpy(), variance.clamp(min=1e-12).sqrt().numpy()


class LinearMixedEffects(ScalarProcess):
    """Random intercept and slope by restricted maximum likelihood."""

    name, title = "M3", "LME"

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        self.scale = max(1.0, *(float(p.t.max()) for p in patients))
        spread = float(np.log(np.concatenate([p.y for p in patients]).std() + 1e-3))
        self.start = (spread, 0.0, spread - 2, spread - 1)  # log s.d. of intercepts, L_21, log noise, log L_22
        super().estimate(patients)

    @property
    def factor(self) -> Tensor:
        """Cholesky factor L (2, 2) of the covariance of intercept and slope."""
        return lower_triangle(self.log[[0, 1, 3]], 2)

    def trend(self, t: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(t), t / self.scale], -1)

    def kernel(self, s: Tensor, t: Tensor) -> Tensor:
        return (self.trend(s) @ self.factor) @ (self.trend(t) @ self.factor).mT

    def fixed_effects(self) -> NDArray:
        """Intercept and slope per month, (2,)."""
        return np.array([float(self.mean[0]), float(self.mean[1]) / self.scale])


class HierarchicalProcess(ScalarProcess):
    """A population line, and per patient an intercept, a slope and a Matern 5/2 deviation from it."""

    name, title = "M6", "hierarchical GP"
    start = (-2.0, 3.0, -2.5, 0.0, -4.0)  # and log of the standard deviations of intercept and slope per month

    def trend(self, t: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(t), t / 12], -1)

    def kernel(self, s: Tensor, t: Tensor) -> Tensor:
        line = (2 * self.log[3]).exp() + (2 * self.log[4]).exp() * s[..., :, None] * t[..., None, :]
        return super().kernel(s, t) + line
