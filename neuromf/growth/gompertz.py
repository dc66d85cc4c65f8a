"""Gompertz growth of y = ln(V + 1 mm^3), and its nonlinear mixed-effects models.

dV/dt = a V ln(K / V) is linear in y: dy/dt = a (k - y), k = ln K, so y(t) = k + (y0 - k) exp(-a t). The equation acts
on y itself, never on a logarithm of y.

A forecast has the variance of the posterior, of the noise, and of the population parameters, which are estimates: by
the delta method, with the inverse of the summed outer products of scores as their covariance.

References:
    Population modeling of tumor growth curves and the reduced Gompertz model (Vaghi et al., 2020), PLOS Comput Biol
    Estimation and inference in nonlinear structural models (Berndt et al., 1974), Ann Econ Soc Meas 3:653
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor
from torch.func import jacfwd

from neuromf.growth.comparators import Comparator
from neuromf.growth.protocols import Case, Trajectory
from neuromf.growth.random_effects import Conditioned, Visits, condition, lower_triangle, minimise, noise_of, pad

NODES = 31
N_SHARED = 10  # parameters before the amortiser: log a, y0, k, their Cholesky factor, log noise
WEAK = 0.01  # prior precision of parameters that the training visits may not determine
EFFECT_SD = 0.2  # prior standard deviation of the effect of a standardised feature on log a and k
LARGEST_LOG_RATE = 3.0  # a of 20 per month


def closed_form(t: Tensor, y0: Tensor, log_rate: Tensor, k: Tensor) -> Tensor:
    """y(t) = k + (y0 - k) exp(-a t), t in months."""
    return k + (y0 - k) * torch.exp(-log_rate.exp() * t)


def pooled_growth(pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> tuple[float, float]:
    """log a and k of one curve family for all pairs ((t1, y1), (t2, y2)), by robust least squares of y2."""
    (t1, y1), (t2, y2) = (np.array(visits, float).T for visits in zip(*pairs, strict=True))

    def residual(x: NDArray) -> NDArray:
        return x[1] + (y1 - x[1]) * np.exp(-np.exp(x[0]) * (t2 - t1)) - y2

    bounds = ([-9.0, np.median(y2)], [1.0, y2.max() + 2])
    start = (-4.0, float(np.percentile(y2, 90)))
    log_rate, k = optimize.least_squares(residual, start, bounds=bounds, loss="soft_l1").x
    return float(log_rate), float(k)


def velocity(y: Tensor, log_rate: Tensor, k: Tensor) -> Tensor:
    """dy/dt = a (k - y) per month, of y = ln(V + 1)."""
    return log_rate.exp() * (k - y)


def hermite(n: int = NODES) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) of the expectation over a standard normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


class Posterior(NamedTuple):
    """Posterior of patients given their visits: a mixture over nodes of log a, Gaussian in (y0, k) at each node."""

    weights: Tensor  # (P, n), rows sum to 1
    log_rate: Tensor  # (P, n)
    mean: Tensor  # of y0 and k, (P, n, 2)
    covariance: Tensor  # (P, n, 2, 2)
    log_likelihood: Tensor  # of the visits, (P,)

    def curve(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance at each node of y(t) without noise, (P, n); t has shape (P,)."""
        decay = torch.exp(-self.log_rate.exp() * t[:, None])
        row = torch.stack([decay, 1 - decay], -1)
        variance = (row[..., None, :] @ self.covariance @ row[..., None])[..., 0, 0]
        return (row * self.mean).sum(-1), variance

    def forecast(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of y(t) without noise, (P,)."""
        mean, variance = self.curve(t)
        total = (self.weights * mean).sum(-1)
        return total, (self.weights * (variance + mean.square())).sum(-1) - total.square()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Posterior means and standard deviations of log a and k, each (P, 2)."""
        values = torch.stack([self.log_rate, self.mean[..., 1]], -1)
        spread = torch.stack([torch.zeros_like(self.log_rate), self.covariance[..., 1, 1]], -1)
        weights = self.weights[..., None]
        mean = (weights * values).sum(1)
        return mean, ((weights * (spread + values.square())).sum(1) - mean.square()).clamp(min=0).sqrt()


class GompertzMixedEffects(Comparator):
    """(log a, y0, k) of patients are jointly Gaussian; the marginal likelihood is a Gauss-Hermite sum over log a.

    Given log a, y is linear in (y0, k), which are integrated in closed form.

    Arguments:
        amortise: The prior mean of log a and k is linear in standardised baseline features, with a normal prior on
            the weights.
    """

    name, title = "M4", "NLME"

    def __init__(self, *, amortise: bool = False) -> None:
        self.amortise = amortise
        self.start: NDArray | None = None  # starting values of the parameters, if they are known

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        visits, features = pad(patients), self._features(patients)
        self.feature_mean, self.feature_sd = np.nanmean(features, 0), np.nanstd(features, 0) + 1e-9
        covariates = self._covariates(patients)

        def loss(x: Tensor) -> Tensor:
            found = self._likelihood(x, visits, covariates)
            return -(found.sum() - 0.5 * (self.amortiser / EFFECT_SD).square().sum()) / len(patients)

        found = [minimise(loss, start) for start in self._starts(patients)]
        with torch.no_grad():
            self.parameters = min(found, key=loss)
            scores = jacfwd(lambda x: self._likelihood(x, visits, covariates))(self.parameters)
            prior = torch.full_like(self.parameters, EFFECT_SD**-2)
            prior[:N_SHARED] = WEAK
            self.parameter_covariance = torch.linalg.inv(scores.T @ scores + prior.diag())
            self._unpack(self.parameters)

    def _likelihood(self, x: Tensor, visits: Visits, covariates: Tensor) -> Tensor:
        """Log-likelihood (P,) of the visits with parameters x (p,)."""
        self._unpack(x)
        return self._posterior(visits, covariates).log_likelihood

    def refit(self, patients: Sequence[Trajectory]) -> "GompertzMixedEffects":
        """A model of the same kind fitted on other patients, from the parameters of this one."""
        model = type(self)(amortise=self.amortise)
        model.start = self.parameters.numpy()
        model.fit(patients)
        return model

    def _starts(self, patients: Sequence[Trajectory]) -> list[NDArray]:
        """Starting values: log a, y0, k, Cholesky factor of their covariance, log noise, amortiser.

        The likelihood has local maxima where a is too large, hence two starts.
        """
        if self.start is not None:
            return [self.start]
        first = np.array([p.y[0] for p in patients])
        log_rate, k = pooled_growth([pair for p in patients for pair in pairwise(zip(p.t, p.y, strict=True))])
        rest = [-0.5, 0.0, float(np.log(first.std() + 1e-2)), 0.0, 0.0, -0.5, -2.5]
        zeros = np.zeros(2 * self.feature_mean.size)
        return [np.array([log_rate - lower, first.mean(), k, *rest, *zeros]) for lower in (0.0, 1.0)]

    def _unpack(self, x: Tensor) -> None:
        self.mean, self.factor, self.sigma = x[:3], lower_triangle(x[3:9], 3), noise_of(x[9])
        self.amortiser = x[N_SHARED:].reshape(2, -1)

    def _features(self, patients: Sequence[Trajectory]) -> NDArray:
        return np.stack([p.features if self.amortise else p.features[:0] for p in patients])

    def _covariates(self, patients: Sequence[Trajectory]) -> Tensor:
        """Standardised baseline features (P, p); 0, the training mean, where unknown."""
        values = (self._features(patients) - self.feature_mean) / self.feature_sd
        return torch.from_numpy(np.nan_to_num(values))

    def _posterior(self, visits: Visits, covariates: Tensor) -> Posterior:
        nodes, weights = hermite()
        shift = covariates @ self.amortiser.T  # of log a and k, (P, 2)
        log_rate = (self.mean[0] + shift[:, :1] + self.factor[0, 0] * nodes).clamp(-15, LARGEST_LOG_RATE)
        mean = self.mean[1:] + nodes[:, None] * self.factor[1:, 0] + _second(shift[:, 1])[:, None]
        found = self._given_rate(visits, log_rate, mean)
        joint = found.log_likelihood + weights.log()
        total = torch.logsumexp(joint, 1)
        return Posterior((joint - total[:, None]).exp(), log_rate, mean + found.mean, found.covariance, total)

    def _given_rate(self, visits: Visits, log_rate: Tensor, mean: Tensor) -> Conditioned:
        decay = torch.exp(-log_rate.exp()[..., None] * visits.t[:, None])  # (P, nodes, n)
        design = torch.stack([decay, 1 - decay], -1) * visits.mask[:, None, :, None]
        residual = visits.y[:, None] - (design @ mean[..., None])[..., 0]
        return condition(design, residual, visits.n[:, None], self.factor[1:, 1:], self.sigma)

    @torch.no_grad()
    def posterior(self, patients: Sequence[Trajectory]) -> Posterior:
        """Posterior of patients given all visits that their trajectories have."""
        return self._posterior(pad(patients), self._covariates(patients))

    @torch.no_grad()
    def forecast(self, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        """Mean and variance (N,) of measured y: that of the posterior, of estimated parameters, and of the noise."""
        past = [case.past for case in cases]
        visits, covariates = pad(past), self._covariates(past)
        t = torch.tensor([case.t for case in cases], dtype=torch.float64)

        def curve(x: Tensor) -> Tensor:
            self._unpack(x)
            return self._posterior(visits, covariates).forecast(t)[0]

        slope = jacfwd(curve)(self.parameters)  # (N, p)
        self._unpack(self.parameters)
        mean, variance = self._posterior(visits, covariates).forecast(t)
        return mean, variance + ((slope @ self.parameter_covariance) * slope).sum(1) + self.sigma**2

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        mean, variance = self.forecast(cases)
        return mean.numpy(), variance.sqrt().numpy()


class ReducedGompertz(GompertzMixedEffects):
    """One growth parameter per patient, a; k is one value of the population, and y0 is free."""

    name, title = "M4r", "reduced NLME"

    def _unpack(self, x: Tensor) -> None:
        super()._unpack(x)
        keep = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=x.dtype)
        self.factor = self.factor * keep


def _second(values: Tensor) -> Tensor:
    """Values (P,) as pairs (0, value), (P, 2)."""
    return torch.stack([torch.zeros_like(values), values], -1)
