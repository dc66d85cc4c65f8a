"""The flow of a Gaussian about one of several centres: exact where it can be said, close to its limit where not."""

import pytest
import torch

from neuromf.meanflow import mixture_prior
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.mixture_prior import MixturePrior, fit_mixture_prior

SHAPE, A, K = (1, 2, 2, 2), 4, 5


@pytest.fixture
def gaussian():
    """Arguments of a Gaussian in float64, with axes in half of its dimensions."""
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
def test_one_centre_at_the_mean_is_the_gaussian(gaussian, t, r):
    one = MixturePrior(*gaussian, centres=torch.zeros(1, A, dtype=torch.float64))
    torch.testing.assert_close(one(*at(t, r)), GaussianPrior(*gaussian)(*at(t, r)), rtol=0, atol=5e-4)


def test_at_equal_times_it_is_the_posterior_mean_by_bayes(gaussian, centres):
    mean, axes, variances, _ = gaussian
    z, t, r = at(0.6, 0.6)
    x = MixturePrior(*gaussian, centres=centres)(z, t, r)
    y, t = (z - 0.4 * mean).flatten(1) @ axes.T, 0.6
    seen = torch.distributions.Normal(0.4 * centres, (0.4**2 * variances + t**2).sqrt())
    weight = seen.log_prob(y[:, None]).sum(2).softmax(1)
    given = centres + 0.4 * variances / (0.4**2 * variances + t**2) * (y[:, None] - 0.4 * centres)
    torch.testing.assert_close((x - mean).flatten(1) @ axes.T, (weight[..., None] * given).sum(1))


def test_its_steps_are_enough_and_intervals_add_up(gaussian, centres, monkeypatch):
    flow, (z, t, r) = MixturePrior(*gaussian, centres=centres), at(1.0, 0.0)
    found = flow(z, t, r)
    monkeypatch.setattr(mixture_prior, "STEPS", 500)
    off = (found - flow(z, t, r)).flatten(1).norm(dim=1)
    assert off.median() < 0.01 and (off > 0.2).float().mean() < 0.02  # but for the few between two centres
    half = torch.full_like(t, 0.5)
    there = z - (t - half).view(-1, 1, 1, 1, 1) * (z - flow(z, t, half)) / t.view(-1, 1, 1, 1, 1)
    apart = (flow(there, half, r) - flow(z, t, r)).flatten(1).norm(dim=1)
    assert apart.median() < 1e-3


def test_noise_goes_to_every_centre_equally_and_with_its_spread(gaussian, centres):
    mean, axes, variances, _ = gaussian
    x = MixturePrior(*gaussian, centres=centres)(*at(1.0, 0.0, n=2000))
    y = (x - mean).flatten(1) @ axes.T
    apart = ((y[:, None] - centres) ** 2 / variances).sum(2)
    nearest, which = apart.min(1)
    torch.testing.assert_close(torch.bincount(which, minlength=K) / 2000, torch.full((K,), 1 / K), rtol=0, atol=0.05)
    assert nearest.mean() / A == pytest.approx(1, abs=0.15)


def test_derivatives_go_through_it(gaussian, centres):
    flow, (z, t, r) = MixturePrior(*gaussian, centres=centres), at(0.8, 0.3, n=4)
    along = torch.func.jvp(lambda t: flow(z, t, r), (t,), (torch.ones_like(t),))[1]
    step = 1e-5
    torch.testing.assert_close(along, (flow(z, t + step, r) - flow(z, t - step, r)) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loose", [0.0, 0.4, 1.0])
def test_parts_keep_their_variance_however_loose(loose):
    """Along the axes: heads and lesions together have the covariance that they were given."""
    torch.manual_seed(3)
    heads, lesions = torch.randn(12, 2, 4, 4, 4), torch.randn(12, 2, 4, 4, 4)
    flow = fit_mixture_prior(torch.zeros(2, 4, 4, 4), heads, lesions, n_axes=11, loose=loose, least=torch.zeros(2))
    torch.testing.assert_close(flow.axes @ flow.axes.T, torch.eye(len(flow.axes)), rtol=0, atol=1e-5)
    got = flow.variances.diag() + flow.centres.T @ flow.centres / 12
    parts = [(part - part.mean(0)).flatten(1) @ flow.axes.T for part in (heads, lesions)]
    torch.testing.assert_close(got, sum(part.T @ part / 12 for part in parts), rtol=1e-4, atol=1e-4)
    assert flow.residual_variance.abs().max() < 1e-4  # nothing of these heads lies off so many axes
