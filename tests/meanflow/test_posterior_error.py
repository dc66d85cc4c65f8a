"""Posterior error against closed forms, its integral against the likelihood, and the choice of the prior by it."""

import math

import numpy as np
import pytest
import torch

from neuromf.core import seeds
from neuromf.meanflow import posterior_error, prior_selection
from neuromf.meanflow.gaussian_prior import GaussianPrior

SHAPE = (2, 4, 4, 8)


def normal(*shape, key=0):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def test_the_error_of_the_best_predictor_of_a_gaussian_is_its_posterior_variance():
    """For x ~ N(0, s^2) it is s^2 t^2 / ((1 - t)^2 s^2 + t^2)."""
    variance = 0.4
    x = variance**0.5 * normal(200, *SHAPE)

    def predict(z, t):
        t = t.view(-1, 1, 1, 1, 1)
        return (1 - t) * variance / ((1 - t) ** 2 * variance + t**2) * z

    for t, error in posterior_error.posterior_error(predict, x, seed=0).items():
        expected = variance * t**2 / ((1 - t) ** 2 * variance + t**2)
        assert error.shape == (200,) and abs(float(error.mean()) / expected - 1) < 0.02


def test_each_latent_has_its_own_noise_in_any_batch():
    x = normal(5, *SHAPE)
    a, b = (posterior_error.posterior_error(lambda z, t: 0.5 * z, x, seed=0, batch=size) for size in (2, 5))
    for t in a:
        torch.testing.assert_close(a[t], b[t])
    other = posterior_error.posterior_error(lambda z, t: 0.5 * z, x, seed=1)
    assert not torch.equal(a[0.5], other[0.5])


def test_the_integral_of_errors_that_fall_as_one_over_the_ratio_is_exact():
    """Half the integral of 1 / gamma over gamma is half the logarithm of the range."""
    ratio = {t: ((1 - t) / t) ** 2 for t in posterior_error.TIMES}
    errors = {t: torch.full((3,), 1 / gamma, dtype=torch.float64) for t, gamma in ratio.items()}
    expected = 0.5 * math.log(max(ratio.values()) / min(ratio.values()))
    assert abs(posterior_error.nats_per_element(errors) - expected) < 1e-9


def smooth_latents(n, key):
    """Latents that are correlated between neighbouring positions."""
    x = normal(n, 2, 6, 6, 10, key=key)
    return sum(x[..., i : i + 4, j : j + 4, k : k + 8] for i in (0, 1) for j in (0, 1) for k in (0, 1)) / 8**0.5


def test_the_prior_with_the_highest_likelihood_on_validation_participants_is_chosen():
    train, validation = smooth_latents(600, "train"), smooth_latents(60, "validation")
    settings = {"axes": [0, 4], "block": [1, 4], "shrinkage": [0.1, 0.9], "seed": 0}
    prior, table = prior_selection.fit_prior(train, validation, **settings)
    assert len(table) == 6  # shrinkage does nothing in blocks of one position
    best = table.loc[table["nats"].idxmin()]
    assert best["block"] == 4 and best["shrinkage"] == 0.1 and len(prior.axes) == best["axes"]
    assert (table.loc[table["block"] == 1, "error_t0.5"] > best["error_t0.5"]).all()
    again = GaussianPrior.fit(train, int(best["axes"]), block=4, shrinkage=0.1)
    torch.testing.assert_close(prior.residual_variance, again.residual_variance)


def test_many_axes_that_overfit_few_participants_are_not_chosen():
    train, validation = smooth_latents(30, "train"), smooth_latents(60, "validation")
    _, table = prior_selection.fit_prior(train, validation, axes=[0, 28], block=[1], shrinkage=[0.0], seed=0)
    assert table.loc[table["nats"].idxmin(), "axes"] == 0


def test_several_candidates_need_validation_participants_and_one_does_not():
    train = smooth_latents(30, "train")
    with pytest.raises(ValueError, match="flow.prior has 2 candidates, which are compared on validation participants"):
        prior_selection.fit_prior(train, train[:0], axes=[0, 4], block=[1], shrinkage=[0.1], seed=0)
    prior, table = prior_selection.fit_prior(train, None, axes=[4], block=[2], shrinkage=[0.1], seed=0)
    assert len(prior.axes) == 4 and table.empty


def test_the_interval_of_the_ratio_is_paired_over_participants():
    """Participants differ much more than network and prior do; the interval is of the ratio of each resample."""
    prior = torch.linspace(0.1, 2.0, 50)
    row = posterior_error.compare_errors(0.9 * prior, prior, 200, 0)
    assert row["n"] == 50 and abs(row["ratio"] - 0.9) < 1e-6 and row["high"] - row["low"] < 1e-6
    noisy = posterior_error.compare_errors(prior.flip(0), prior, 200, 0)
    assert noisy["low"] < 0.9 and noisy["high"] > 1.1
    alone = posterior_error.compare_errors(prior, None, 200, 0)
    assert np.isnan(alone["ratio"]) and alone["network"] > 0
