"""ComBat: location and scale of features per scanner, with empirical-Bayes shrinkage, estimated on training scans.

References:
    Adjusting batch effects in microarray expression data using empirical Bayes methods (Johnson et al., 2007),
    Biostatistics 8:118
    Harmonization of cortical thickness measurements across scanners and sites (Fortin et al., 2018), NeuroImage 167:104
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 30


@dataclass(frozen=True)
class Harmonisation:
    """Fitted ComBat: x = alpha + C beta + sigma (gamma_b + delta_b e) for scanner b."""

    scanners: tuple[str, ...]
    coefficients: NDArray  # alpha and beta, (1 + c, p)
    sigma: NDArray  # (p,)
    shift: NDArray  # gamma, (B, p)
    scale: NDArray  # delta, (B, p)

    def apply(self, features: NDArray, scanners: Sequence[str], covariates: NDArray) -> NDArray:
        """Features (N, p) without effects of scanners; effects of covariates (N, c) stay.

        Raises:
            ValueError: If a scanner was not in the training scans.
        """
        if unknown := sorted(set(scanners) - set(self.scanners)):
            raise ValueError(f"no training scan of scanner {unknown[0]}; fitted on {', '.join(self.scanners)}")
        rows = np.array([self.scanners.index(name) for name in scanners])
        expected = _design(covariates) @ self.coefficients
        z = (np.asarray(features, float) - expected) / self.sigma
        return expected + self.sigma * (z - self.shift[rows]) / self.scale[rows]


def _design(covariates: NDArray) -> NDArray:
    return np.column_stack([np.ones(len(covariates)), covariates])


def fit_harmonisation(features: NDArray, scanners: Sequence[str], covariates: NDArray) -> Harmonisation:
    """Estimate ComBat on training scans.

    Arguments:
        features: Features, shape (N, p).
        scanners: Scanner of each scan, (N,), each with at least two scans.
        covariates: What to preserve, such as months since the first visit, shape (N, c).
    """
    x, names = np.asarray(features, float), tuple(sorted(set(scanners)))
    member = np.array([[name == one for one in names] for name in scanners], float)  # (N, B)
    counts = member.sum(0)
    if counts.min() < 2:
        raise ValueError(f"scanner {names[int(counts.argmin())]} has {int(counts.min())} training scan; needs 2")
    joint, *_ = np.linalg.lstsq(np.column_stack([member, covariates]), x, rcond=None)
    coefficients = np.vstack([counts @ joint[: len(names)] / len(x), joint[len(names) :]])
    sigma = (x - np.column_stack([member, covariates]) @ joint).std(0)
    z = (x - _design(covariates) @ coefficients) / sigma
    shift, scale = zip(*(_shrink(z[row > 0]) for row in member.T), strict=True)
    return Harmonisation(names, coefficients, sigma, np.stack(shift), np.stack(scale))


def _shrink(z: NDArray) -> tuple[NDArray, NDArray]:
    """Posterior gamma and delta (p,) of one scanner; priors over its features by moments."""
    n, gamma, variance = len(z), z.mean(0), z.var(0, ddof=1)
    prior_mean, prior_variance = gamma.mean(), gamma.var() + 1e-12
    m, s2 = variance.mean(), variance.var() + 1e-12
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2  # of the inverse gamma prior of delta^2
    location, delta2 = gamma, variance
    for _ in range(ITERATIONS):
        location = (n * prior_variance * gamma + delta2 * prior_mean) / (n * prior_variance + delta2)
        delta2 = (rate + 0.5 * ((z - location) ** 2).sum(0)) / (n / 2 + shape - 1)
    return location, np.sqrt(delta2)
