"""Negative ELBO, free bits, capacity and schedules against loops and closed forms in float64."""

import math

import numpy as np
import pytest
import torch

from neuromf.vae.elbo import compute_elbo, compute_elbo_ext, constrained_kl, kl_per_dimension, reparameterise
from neuromf.vae.schedules import constant, cyclical, linear, make_schedule

N = 2 * 3**3


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    x, x_hat = draw(4, 2, 3, 3, 3), draw(4, 2, 3, 3, 3).requires_grad_()
    return x, x_hat, draw(4, 5).requires_grad_(), (0.3 * draw(4, 5)).requires_grad_()


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs, retain_graph=True)


def test_G19_reparameterisation_has_the_moments_of_the_posterior():
    mu, logvar = torch.full((100_000, 1), 1.5), torch.full((100_000, 1), math.log(0.25))
    z = reparameterise(mu, logvar, torch.randn(mu.shape, generator=torch.Generator().manual_seed(1)))
    assert abs(z.mean() - 1.5) < 3 * 0.5 / 100_000**0.5
    assert abs(z.var() - 0.25) < 3 * 0.25 * (2 / 100_000) ** 0.5


def test_G20_sum_equals_a_loop_with_exactly_three_keys(batch):
    x, x_hat, mu, logvar = batch
    terms = compute_elbo(x, x_hat, mu, logvar, beta=0.7)
    a, b, m, v = (t.detach().numpy() for t in batch)
    recon = sum((p - q) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True))
    kl = sum(0.5 * (math.exp(q) + p**2 - 1 - q) for p, q in zip(m.ravel(), v.ravel(), strict=True))
    assert terms.keys() == {"loss", "recon", "kl"}
    np.testing.assert_allclose(
        [terms[k].item() for k in ("recon", "kl", "loss")], [recon, kl, recon + 0.7 * kl], rtol=1e-12
    )
    assert all(value >= 0 for value in terms.values())
    zero = compute_elbo(x, x, torch.zeros_like(mu), torch.zeros_like(logvar), beta=1.0)
    assert all(float(value) == 0 for value in zero.values())
    ext = compute_elbo_ext(x, x_hat, mu, logvar, 0.7)
    assert all(torch.equal(ext[k], terms[k]) or torch.allclose(ext[k], terms[k], rtol=1e-14) for k in terms)


def test_G21_gradient_of_nll_at_variance_one_half_is_that_of_the_sum_over_all_numbers(batch):
    _, x_hat, mu, logvar = batch
    total = gradients(compute_elbo_ext(*batch, 0.7)["loss"], x_hat, mu, logvar)
    nll = gradients(compute_elbo_ext(*batch, 0.7, reduction="nll", variance=0.5)["loss"], x_hat, mu, logvar)
    for one, other in zip(total, nll, strict=True):
        torch.testing.assert_close(other, one / (4 * N), rtol=1e-12, atol=0)


def test_G21_mean_is_the_mean_error_and_the_mean_kl(batch):
    x, x_hat, mu, logvar = batch
    terms = compute_elbo_ext(*batch, 0.7, reduction="mean")
    torch.testing.assert_close(terms["recon"], (x - x_hat).square().mean())
    torch.testing.assert_close(terms["kl"], kl_per_dimension(mu, logvar).sum(1).mean())
    torch.testing.assert_close(terms["loss"], terms["recon"] + 0.7 * terms["kl"])


def test_G21_nll_is_the_negative_log_density_per_number(batch):
    x, x_hat, *_ = batch
    terms = compute_elbo_ext(*batch, 0.0, reduction="nll", variance=0.3)
    density = torch.distributions.Normal(x_hat, 0.3**0.5).log_prob(x)
    torch.testing.assert_close(terms["loss"], -density.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode, at", [("batch_mean", 0.5), ("per_sample", 0.5)])
def test_G22_below_the_floor_the_gradient_of_the_kl_is_zero(mode, at):
    mu = torch.full((3, 2), 0.1, dtype=torch.float64, requires_grad=True)
    logvar = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    cost = constrained_kl(kl_per_dimension(mu, logvar), at, mode)
    assert float(cost) == pytest.approx(2 * at)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(cost, mu, logvar))


def test_G22_modes_differ_where_one_sample_carries_the_information():
    nats = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    assert float(constrained_kl(nats, 0.5, "batch_mean")) == 2.0 + 0.5
    assert float(constrained_kl(nats, 0.5, "per_sample")) == (4.5 + 1.0) / 2
    assert float(constrained_kl(nats, 0.0)) == 2.0


def test_G23_capacity_is_the_distance_to_c_and_grows_linearly(batch):
    plain = compute_elbo_ext(*batch, 2.0)
    held = compute_elbo_ext(*batch, 2.0, capacity=100.0)
    expected = plain["recon"] + 2.0 * 4 * (plain["kl_raw"] - 100.0).abs()
    torch.testing.assert_close(held["loss"], expected)
    at = linear(25.0, 200)
    assert [at(0), at(100), at(200), at(300)] == [0.0, 12.5, 25.0, 25.0]


def test_G24_linear_beta_has_its_knots_and_stays():
    at = make_schedule("linear", 2.0, 40)
    assert [at(0), at(20), at(40), at(199)] == [0.0, 1.0, 2.0, 2.0]


def test_G24_cyclical_beta_has_four_cycles_in_160_epochs_and_stops():
    at = cyclical(1.0, 160, cycles=4, ratio=0.5)
    values = [at(epoch) for epoch in range(400)]
    assert [epoch for epoch in range(400) if values[epoch] == 0] == [0, 40, 80, 120]
    assert [values[10], values[20], values[39], values[50], values[140]] == [0.5, 1.0, 1.0, 0.5, 1.0]
    assert set(values[160:]) == {1.0}
    assert constant(3.0)(99) == 3.0


def test_an_unknown_schedule_or_reduction_is_named(batch):
    with pytest.raises(ValueError, match="one of constant, linear, cyclical; got 'cosine'"):
        make_schedule("cosine", 1.0)
    with pytest.raises(ValueError, match="one of sum, mean, nll; got 'median'"):
        compute_elbo_ext(*batch, 1.0, reduction="median")


def test_G37_losses_under_autocast_are_float32_and_close():
    x = torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    net = torch.nn.Conv3d(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        x_hat, mu = net(x), net(x)[:, :, 0, 0, 0]
        half = compute_elbo(x, x_hat, mu, -mu, 1.0)
    assert x_hat.dtype == torch.bfloat16 and all(value.dtype == torch.float32 for value in half.values())
    full = compute_elbo(x, net(x), net(x)[:, :, 0, 0, 0], -net(x)[:, :, 0, 0, 0], 1.0)
    assert float(half["loss"]) == pytest.approx(float(full["loss"]), rel=0.01)
