"""Simple models of log-volume that every other model must beat: population mean, LOCF, line, linear mixed effects.

A comparator is fitted on trajectories of training patients; then it forecasts cases, mean and standard deviation of y.

References:
    Random-effects models for longitudinal data (Laird and Ware, 1982), Biometrics 38:963
    That BLUP is a good thing: the estimation of random effects (Robinson, 1991), Statist Sci 6:15
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.growth.protocols import Case, Trajectory, last_from_rest
from neuromf.growth.random_effects import Conditioned, condition, lower_triangle, minimise, noise_of, pad

SMALLEST_SD = 1e-6


class Comparator(ABC):
    """A model of the ladder; `patients` are those that it was fitted on."""

    name: str
    title: str
    patients: frozenset[str] = frozenset()

    def fit(self, patients: Sequence[Trajectory]) -> "Comparator":
        """Estimate all parameters from training patients."""
        self.patients = frozenset(p.patient for p in patients)
        self.estimate(patients)
        return self

    @abstractmethod
    def estimate(self, patients: Sequence[Trajectory]) -> None: ...

    @abstractmethod
    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        """Mean and standard deviation of y of cases, each (N,)."""


class PopulationMean(Comparator):
    """Mean and standard deviation of all training visits."""

    name, title = "M0", "mean"

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        y = np.concatenate([p.y for p in patients])
        self.mean, self.sd = float(y.mean()), float(y.std(ddof=1))

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        return np.full(len(cases), self.mean), np.full(len(cases), self.sd)


class PatientRule(Comparator):
    """A rule that reads one patient alone; its standard deviation is its RMS error on training patients.

    The rule has no parameter, so errors on training patients are as large as on others.
    """

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        cases = last_from_rest(patients)
        errors = [case.actual - self.rule(case) for case in cases]
        self.sd = max(float(np.sqrt(np.mean(np.square(errors)))), SMALLEST_SD)

    @abstractmethod
    def rule(self, case: Case) -> float: ...

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        return np.array([self.rule(case) for case in cases]), np.full(len(cases), self.sd)


class LastObservation(PatientRule):
    """Last observation carried forward."""

    name, title = "M1", "LOCF"

    def rule(self, case: Case) -> float:
        return float(case.past.y[-1])


class PatientLine(PatientRule):
    """Least-squares line of the patient from two visits on, else LOCF."""

    name, title = "M2", "line"

    def rule(self, case: Case) -> float:
        t, y = case.past.t, case.past.y
        if len(t) < 2:
            return float(y[-1])
        slope = ((t - t.mean()) * (y - y.mean())).sum() / ((t - t.mean()) ** 2).sum()
        return float(y.mean() + slope * (case.t - t.mean()))


class LinearMixedEffects(Comparator):
    """Random intercept and slope by restricted maximum likelihood; forecasts are empirical BLUPs.

    The variance of a forecast is that of random effects, of estimated fixed effects, and of noise.
    """

    name, title = "M3", "LME"

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        visits = pad(patients)
        self.scale = float(visits.t.max().clamp(min=1.0))
        design = self._design(visits.t) * visits.mask[..., None]
        spread = float(np.log(np.concatenate([p.y for p in patients]).std() + 1e-3))

        def loss(x: Tensor) -> Tensor:
            found, mean, information = self._fixed_effects(design, visits.y, visits.n, x)
            fitted = 0.5 * (mean * (information @ mean)).sum()  # of y' V^-1 y at the generalised least squares mean
            return -(found.log_likelihood.sum() + fitted - 0.5 * torch.logdet(information)) / len(patients)

        x = minimise(loss, np.array([spread, 0.0, spread - 1, spread - 2]))
        self.factor, self.sigma = lower_triangle(x[:3], 2), noise_of(x[3])
        _, self.mean, information = self._fixed_effects(design, visits.y, visits.n, x)
        self.mean_covariance = torch.linalg.inv(information)

    def _design(self, t: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(t), t / self.scale], -1)

    def _fixed_effects(self, design: Tensor, y: Tensor, count: Tensor, x: Tensor) -> tuple[Conditioned, Tensor, Tensor]:
        """Likelihood of y about 0, the generalised least-squares mean, and its information X' V^-1 X."""
        factor, sigma = lower_triangle(x[:3], 2), noise_of(x[3])
        found = condition(design, y, count, factor, sigma)
        gram = design.mT @ design / sigma**2
        information = (gram - gram @ found.covariance @ gram).sum(0)
        weighted = (design.mT @ y[..., None])[..., 0] / sigma**2  # X' y / s^2
        weighted = (weighted - (gram @ found.covariance @ weighted[..., None])[..., 0]).sum(0)
        return found, torch.linalg.solve(information, weighted), information

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        visits = pad([case.past for case in cases])
        design = self._design(visits.t) * visits.mask[..., None]
        found = condition(design, visits.y - design @ self.mean, visits.n, self.factor, self.sigma)
        row = self._design(torch.tensor([case.t for case in cases], dtype=torch.float64))
        gram = design.mT @ design / self.sigma**2
        fixed = row - (row[:, None] @ found.covariance @ gram)[:, 0]  # effect of the mean that data do not cancel
        mean = (row * (self.mean + found.mean)).sum(1)
        variance = (row[:, None] @ found.covariance @ row[..., None])[:, 0, 0] + self.sigma**2
        variance = variance + ((fixed @ self.mean_covariance) * fixed).sum(1)
        return mean.numpy(), variance.sqrt().numpy()

    def fixed_effects(self) -> NDArray:
        """Intercept and slope per month, (2,)."""
        return np.array([float(self.mean[0]), float(self.mean[1]) / self.scale])
