"""Reconstruction terms against closed forms, the classical start of the Poisson decoder, and control of beta."""

import math

import pytest
import torch

from neuromf.atlas import losses
from neuromf.atlas.kl_controller import KLController
from neuromf.atlas.volume_vae import ClassicalDensity
from neuromf.vae.collapse import verdict

TINY = torch.double


def test_A19_mse_sum_is_a_sum_over_voxels():
    assert losses.mse_sum(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [0, 0, 1]])).tolist() == [14.0, 1.0]


def test_A40_gauss_is_half_of_squared_error_over_variance_plus_log_variance():
    x, mu, logvar = torch.tensor([[1.0, 0]]), torch.tensor([[3.0, 0]]), torch.tensor([[math.log(4.0), 0]])
    assert float(losses.gauss(x, mu, logvar)) == pytest.approx(0.5 * (1 + math.log(4)))


def test_A40_gauss_is_smallest_at_the_planted_variance():
    x = 0.3 * torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0), dtype=TINY)
    values = {
        s: float(losses.gauss(x, torch.zeros_like(x), torch.full_like(x, 2 * math.log(s)))) for s in (0.2, 0.3, 0.4)
    }
    assert min(values, key=values.get) == 0.3


def test_A64_poisson_is_the_likelihood_of_a_point_process():
    counts = torch.tensor([[2.0, 0, 1]], dtype=TINY)
    rate = torch.tensor([[0.5, 1.5, 2.0]], dtype=TINY)
    expected = rate.sum() - (2 * math.log(0.5) + math.log(2.0))
    assert float(losses.poisson(counts, rate.log())) == pytest.approx(float(expected), abs=1e-12)
    by_torch = torch.distributions.Poisson(rate).log_prob(counts).sum() + math.log(2)  # log 2! of the first voxel
    assert float(losses.poisson(counts, rate.log())) == pytest.approx(-float(by_torch), abs=1e-12)


def test_A64_poisson_is_stationary_where_the_intensity_is_the_mean_count():
    counts = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=TINY)
    log_rate = counts.mean(0).log().clone().requires_grad_()
    losses.poisson(counts, log_rate.expand(2, 2)).sum().backward()
    assert log_rate.grad.abs().max() < 1e-12


def test_A64_bits_of_a_uniform_rate_are_minus_log2_of_the_voxels():
    counts = torch.tensor([[1.0, 0, 0, 5.0, 0, 0, 0, 2.0]])
    assert float(losses.bits_per_focus(counts, torch.full((1, 8), 3.0))) == pytest.approx(-3.0)


# --- classical density -----------------------------------------------------------------------------------


def density(own_weight=0.25):
    arrays = {"global": torch.tensor([0.5, 0.5, 0.0]), "topics": torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]),
              "count_weights": torch.tensor([0.0, 0.0, 2.0]), "count_bias": torch.tensor(1.0)}  # fmt: skip
    return ClassicalDensity(arrays, (0, 2), None, own_weight=own_weight)


def test_A64_the_decoder_starts_at_the_mixture_of_topics_with_squared_weights():
    m = torch.tensor([[0.6, 0.2, 0.5]])
    log_density, log_count = density()(m, torch.ones(1, 3).bool(), None, None)
    topics = 0.9 * torch.tensor([0.36 / 0.4, 0, 0.04 / 0.4]) + 0.1 * torch.tensor([0.5, 0.5, 0])
    torch.testing.assert_close(log_density.exp(), topics[None], atol=2e-7, rtol=1e-5)
    assert float(log_count) == pytest.approx(2.0)


def test_A64_own_foci_are_mixed_in_and_missing_topics_leave_the_global_density():
    m, none = torch.tensor([[0.6, 0.2, 0.5]]), torch.zeros(1, 3).bool()
    own = torch.tensor([[0.0, 1.0, 3.0]])
    mixed = density()(m, none, None, own)[0].exp()
    expected = 0.75 * torch.tensor([[0.5, 0.5, 0.0]]) + 0.25 * torch.tensor([[0, 0.25, 0.75]])
    torch.testing.assert_close(mixed, expected, atol=2e-7, rtol=1e-5)
    empty = density()(m, none, None, torch.zeros(1, 3))[0].exp()
    torch.testing.assert_close(empty, torch.tensor([[0.5, 0.5, 0.0]]), atol=2e-7, rtol=1e-5)


# --- beta ------------------------------------------------------------------------------------------------


def final_kl(mode, *, beta=1.0, target=20.0, epochs=120):
    """KL after epochs of a toy whose KL is 10 / beta."""
    controller = KLController(mode, target, beta)
    for _ in range(epochs):
        controller.update(10 / controller.beta)
    return 10 / controller.beta


def test_A28_corrected_reaches_the_target_from_both_sides_and_literal_lowers_a_low_kl():
    assert 0.9 * 20 <= final_kl("corrected") <= 20 * 1.1
    assert 0.9 * 20 <= final_kl("corrected", beta=0.1) <= 20 * 1.1
    assert final_kl("literal") == pytest.approx(1.0)  # beta at its cap of 10
    assert final_kl("constant") == 10


def test_A28_pi_settles_at_the_target():
    assert final_kl("pi", epochs=2000) == pytest.approx(20, rel=0.05)


def test_A28_beta_waits_for_more_than_three_epochs_and_stays_within_bounds():
    controller = KLController("corrected", 20, 1.0)
    assert [controller.update(1.0) for _ in range(5)] == pytest.approx([1, 1, 1, 0.9, 0.81])
    controller = KLController("corrected", 20, 2e-4)
    for _ in range(60):
        controller.update(1.0)
    assert controller.beta == 1e-4


def test_A28_the_state_resumes():
    first, second = KLController("corrected", 20, 1.0), KLController("corrected", 20, 1.0)
    for _ in range(3):
        first.update(1.0)
    second.load_state_dict(first.state_dict())
    assert second.update(1.0) == pytest.approx(0.9)


# --- collapse --------------------------------------------------------------------------------------------


def linear_optimum(weight, n=10_000, signal=0.012, dims=4):
    """KL in nats per dimension at the optimum of a linear VAE with `weight` (x - x_hat)^2 and N = n voxels.

    A dimension that explains the fraction 1 / dims of the signal is worth weight * n * signal / dims of the loss; its
    optimal posterior variance v solves v = 1 / (1 + 2 weight n signal / dims).
    """
    return -0.5 * math.log(1 / (1 + 2 * weight * n * signal / dims))


def test_A73_mean_mse_with_unscaled_kl_collapses_and_the_sum_does_not():
    assert linear_optimum(1 / 10_000) < 0.01
    assert linear_optimum(1.0) > 1.0


def test_A73_a_constant_encoder_is_collapsed_and_an_identity_is_healthy():
    constant = {"au_count": 0, "kl_raw": 0.0, "bypass_ratio": 0.0, "mu_var_mean": 0.0}
    identity = {"au_count": 32, "kl_raw": 60.0, "bypass_ratio": 0.9, "mu_var_mean": 0.9}
    assert verdict(constant, 32).state == "collapsed" and verdict(identity, 32).state == "healthy"
