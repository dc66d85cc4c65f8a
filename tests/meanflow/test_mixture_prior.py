"""The mixture prior against the Gaussian, Bayes' rule, and numerical limits."""

import pytest
import torch

from neuromf.meanflow import mixture_prior
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.mixture_prior import MixturePrior, fit_mixture_prior

SHAPE, A, K = (1, 2, 2, 2), 4, 5


@pytest.fixture
def gaussian():
    """Arguments of a float64 `GaussianPrior` with axes in half of the dimensions."""
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(8, A, dtype=torch.float64))[0].T.contiguous()
    variances = torch.tensor([0.05, 0.1, 0.3, 0.02], dtype=torch.float64)
    return torch.randn(SHAPE, dtype=torch.float64), axes, variances, torch.full(SHAPE, 0.01, dtype=torch.float64)


@pytest.fixture
def centres():
    c = torch.randn(K, A, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.5
    return c - c.mean(0)


def at(t, r, n=200):
    z = torch.randn(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return z, torch.full((n,), t, dtype=torch.float64), torch.full((n,), r, dtype=torch.float64)


@pytest.mark.parametrize(("t", "r"), [(1.0, 0.0), (0.7, 0.2), (0.3, 0.3), (0.05, 0.0)])
def test_with_one_centre_at_the_mean_it_equals_the_gaussian(gaussian, t, r):
    one = MixturePrior(*gaussian, centres=torch.zeros(1, A, dtype=torch.float64))
    torch.testing.assert_close(one(*at(t, r)), GaussianPrior(*gaussian)(*at(t, r)), rtol=0, atol=5e-4)


def test_at_equal_times_it_is_the_posterior_mean(gaussian, centres):
    mean, axes, variances, _ = gaussian
    z, t, r = at(0.6, 0.6)
    x = MixturePrior(*gaussian, centres=centres)(z, t, r)
    y, t = (z - 0.4 * mean).flatten(1) @ axes.T, 0.6
    likelihood = torch.distributions.Normal(0.4 * centres, (0.4**2 * variances + t**2).sqrt())
    weight = likelihood.log_prob(y[:, None]).sum(2).softmax(1)
    posterior = centres + 0.4 * variances / (0.4**2 * variances + t**2) * (y[:, None] - 0.4 * centres)
    torch.testing.assert_close((x - mean).flatten(1) @ axes.T, (weight[..., None] * posterior).sum(1))


def test_the_integration_has_converged_and_intervals_compose(gaussian, centres, monkeypatch):
    prior, (z, t, r) = MixturePrior(*gaussian, centres=centres), at(1.0, 0.0)
    coarse = prior(z, t, r)
    monkeypatch.setattr(mixture_prior, "STEPS", 500)
    error = (coarse - prior(z, t, r)).flatten(1).norm(dim=1)
    assert error.median() < 0.01 and (error > 0.2).float().mean() < 0.02  # large only between two centres
    half = torch.full_like(t, 0.5)
    middle = z - (t - half).view(-1, 1, 1, 1, 1) * (z - prior(z, t, half)) / t.view(-1, 1, 1, 1, 1)
    error = (prior(middle, half, r) - prior(z, t, r)).flatten(1).norm(dim=1)
    assert error.median() < 1e-3


def test_samples_are_spread_equally_over_the_centres_with_their_variances(gaussian, centres):
    mean, axes, variances, _ = gaussian
    x = MixturePrior(*gaussian, centres=centres)(*at(1.0, 0.0, n=2000))
    y = (x - mean).flatten(1) @ axes.T
    squared = ((y[:, None] - centres) ** 2 / variances).sum(2)
    nearest, which = squared.min(1)
    torch.testing.assert_close(torch.bincount(which, minlength=K) / 2000, torch.full((K,), 1 / K), rtol=0, atol=0.05)
    assert nearest.mean() / A == pytest.approx(1, abs=0.15)


def test_its_derivative_equals_central_differences(gaussian, centres):
    prior, (z, t, r) = MixturePrior(*gaussian, centres=centres), at(0.8, 0.3, n=4)
    along = torch.func.jvp(lambda t: prior(z, t, r), (t,), (torch.ones_like(t),))[1]
    step = 1e-5
    torch.testing.assert_close(
        along, (prior(z, t + step, r) - prior(z, t - step, r)) / (2 * step), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("gaussian_fraction", [0.0, 0.4, 1.0])
def test_the_covariance_along_the_axes_is_that_of_brains_plus_lesions(gaussian_fraction):
    torch.manual_seed(3)
    brains, lesions = torch.randn(12, 2, 4, 4, 4), torch.randn(12, 2, 4, 4, 4)
    settings = {"n_axes": 11, "gaussian_fraction": gaussian_fraction, "variance_floor": torch.zeros(2)}
    prior = fit_mixture_prior(torch.zeros(2, 4, 4, 4), brains, lesions, **settings)
    torch.testing.assert_close(prior.axes @ prior.axes.T, torch.eye(len(prior.axes)), rtol=0, atol=1e-5)
    covariance = prior.variances.diag() + prior.centres.T @ prior.centres / 12
    parts = [(part - part.mean(0)).flatten(1) @ prior.axes.T for part in (brains, lesions)]
    torch.testing.assert_close(covariance, sum(part.T @ part / 12 for part in parts), rtol=1e-4, atol=1e-4)
    assert prior.residual_variance.abs().max() < 1e-4  # 12 brains span at most 11 axes
