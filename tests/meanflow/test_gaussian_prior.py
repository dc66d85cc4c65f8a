"""The Gaussian prior against the posterior mean, the endpoint of the flow, and the MeanFlow identity."""

import pytest
import torch

from neuromf.core import seeds
from neuromf.meanflow import flow, local_basis, run
from neuromf.meanflow.gaussian_prior import GaussianPrior, principal_axes, velocity_coefficient

SHAPE = (3, 4, 2, 2)
D = 48  # elements of a latent
BLOCKED = {"block": 2, "shrinkage": 0.1}


def normal(*shape, key=0):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


@pytest.fixture
def data():
    """Forty points of a Gaussian with a mean and a few strong directions."""
    mixing = normal(6, D, key="mixing")
    return (1.0 + normal(40, 6) @ mixing).view(40, *SHAPE)


@pytest.fixture
def prior(data):
    """A prior with equal residual variances, for which the closed form is exact."""
    return equalise(GaussianPrior.fit(data, 4))


@pytest.fixture
def local_prior(data):
    """A prior without axes, with a channel covariance at each position, for which it is exact, too."""
    return GaussianPrior.fit(data, 0)


@pytest.fixture
def block_prior(data):
    """A prior without axes, with a covariance in each block, for which it is exact, too."""
    return GaussianPrior.fit(data, 0, **BLOCKED)


def equalise(prior, spread=0.0):
    """The prior with residual variances shrunk towards 0.3 by the factor `spread`."""
    variance = 0.3 + spread * (prior.residual_variance - 0.3)
    return GaussianPrior(prior.mean, prior.axes, prior.variances, variance, prior.eigenvectors)


def residual_covariance(prior):
    """Covariance of the residual, (D, D)."""
    unit = torch.eye(D, dtype=torch.float64).view(D, *SHAPE)
    coefficients = prior.residual_variance * local_basis.to_eigenbasis(unit, prior.eigenvectors)
    return local_basis.from_eigenbasis(coefficients, prior.eigenvectors).flatten(1)


def covariance_of(prior):
    """Covariance of the data (D, D)."""
    residual = torch.eye(D, dtype=torch.float64) - prior.axes.T @ prior.axes
    return prior.axes.T @ torch.diag(prior.variances) @ prior.axes + residual @ residual_covariance(prior) @ residual


def noisy_covariance(prior, time):
    """Covariance of z at a time."""
    return (1 - time) ** 2 * covariance_of(prior) + time**2 * torch.eye(D, dtype=torch.float64)


def u_of(prior):
    return lambda z, t, r: flow.velocity_from_data(prior(z, t, r), z, t, 1e-9)


def times(n=5):
    t = torch.linspace(0.2, 1.0, n, dtype=torch.float64)
    return t, 0.3 * t


def test_axes_are_orthonormal_with_the_variances_of_the_data(data):
    mean, axes, variances = principal_axes(data, 4)
    torch.testing.assert_close(axes @ axes.T, torch.eye(4, dtype=torch.float64))
    along = (data - mean).flatten(1) @ axes.T
    torch.testing.assert_close(along.var(0, correction=0), variances)
    covariance = torch.cov(data.flatten(1).T, correction=0)
    torch.testing.assert_close(variances, torch.linalg.eigvalsh(covariance).flip(0)[:4])


def test_there_are_at_most_n_minus_one_axes(data):
    assert len(principal_axes(data[:5], 64)[2]) == 4
    assert len(principal_axes(data, 0)[2]) == 0


def test_the_residual_covariance_is_that_of_the_data_without_the_axes(data):
    prior = GaussianPrior.fit(data, 4)
    residual = (data - prior.mean).flatten(1)
    residual = (residual - (residual @ prior.axes.T) @ prior.axes).view_as(data)
    at_one_position = residual_covariance(prior).view(*SHAPE, *SHAPE)[:, 0, 1, 1, :, 0, 1, 1]
    torch.testing.assert_close(at_one_position, torch.cov(residual[:, :, 0, 1, 1].T, correction=0))
    assert (GaussianPrior.fit(data[:5], 64).residual_variance.abs() < 1e-9).all()


@pytest.mark.parametrize("kind", ["prior", "local_prior", "block_prior"])
def test_at_r_equals_t_the_prediction_is_the_posterior_mean(kind, request):
    """E[x | z] = m + C (1 - t) ((1 - t)^2 C + t^2)^-1 (z - (1 - t) m)."""
    prior, (t, _) = request.getfixturevalue(kind), times()
    z, m = normal(5, *SHAPE), prior.mean.flatten()
    covariance = covariance_of(prior)
    for one, time, actual in zip(z, t, prior(z, t, t), strict=True):
        noisy = noisy_covariance(prior, time)
        expected = m + (1 - time) * covariance @ torch.linalg.solve(noisy, one.flatten() - (1 - time) * m)
        torch.testing.assert_close(actual.flatten(), expected)


@pytest.mark.parametrize("kind", ["local_prior", "block_prior"])
def test_the_whitened_residual_has_unit_covariance(kind, request):
    """Whitening twice gives ((1 - t)^2 C + t^2)^-1 (z - (1 - t) m)."""
    prior = request.getfixturevalue(kind)
    (t, r), m = times(), prior.mean
    z = normal(5, *SHAPE)
    once = prior.whiten(z, t, r)[0]
    twice = prior.whiten(once + (1 - flow.expand_as(t, z)) * m, t, r)[0]
    for time, one, actual in zip(t, z, twice, strict=True):
        expected = torch.linalg.solve(noisy_covariance(prior, time), (one - (1 - time) * m).flatten())
        torch.testing.assert_close(actual.flatten(), expected)


@pytest.mark.parametrize("kind", ["local_prior", "block_prior"])
def test_posterior_noise_has_the_posterior_covariance(kind, request):
    """Applied twice it is the posterior covariance t^2 C ((1 - t)^2 C + t^2)^-1; zero at t = 0."""
    prior = request.getfixturevalue(kind)
    t, a = times()[0], normal(5, *SHAPE)
    twice = prior.posterior_noise(prior.posterior_noise(a, t), t)
    for time, one, actual in zip(t, a, twice, strict=True):
        expected = time**2 * covariance_of(prior) @ torch.linalg.solve(noisy_covariance(prior, time), one.flatten())
        torch.testing.assert_close(actual.flatten(), expected)
    assert not prior.posterior_noise(a, 0 * t).any()


@pytest.mark.parametrize("kind", ["prior", "local_prior", "block_prior"])
def test_from_noise_to_data_the_prediction_is_a_sample_of_the_gaussian(kind, request):
    """x = m + C^(1/2) eps."""
    prior = request.getfixturevalue(kind)
    eps, one = normal(5, *SHAPE), torch.ones(5, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance_of(prior))
    drawn = eps.flatten(1) @ (vectors * values.sqrt()) @ vectors.T
    torch.testing.assert_close(prior(eps, one, 0 * one), prior.mean + drawn.view_as(eps))


def test_at_time_0_the_prediction_is_z_and_finite_without_residual_variance(prior):
    none, zero = torch.zeros(5, dtype=torch.float64), torch.zeros_like(prior.residual_variance)
    z = normal(5, *SHAPE)
    torch.testing.assert_close(prior(z, none, none), z)
    assert GaussianPrior(prior.mean, prior.axes, prior.variances, zero)(z, none, none).isfinite().all()


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_sampling_ends_on_the_same_point_for_any_nfe(prior, n_steps):
    eps = normal(5, *SHAPE)
    torch.testing.assert_close(
        flow.sample(u_of(prior), eps, flow.uniform_times(n_steps)), flow.sample(u_of(prior), eps)
    )


@pytest.mark.parametrize("kind", ["prior", "local_prior", "block_prior"])
def test_the_prior_satisfies_the_meanflow_identity(kind, request):
    """u + (t - r) du/dt along the path of v = u(z, t, t) is v."""
    prior = request.getfixturevalue(kind)
    (t, r), z, u = times(), normal(5, *SHAPE), u_of(prior)
    v = u(z, t, t)
    torch.testing.assert_close(flow.implied_velocity(*flow.two_pass(u, z, t, r, v), t, r), v, rtol=1e-6, atol=1e-6)


def identity_error(prior):
    """Norm of V - v over the norm of v, at each of `times`."""
    (t, r), z, u = times(), normal(5, *SHAPE), u_of(prior)
    v = u(z, t, t)
    V = flow.implied_velocity(*flow.two_pass(u, z, t, r, v), t, r)
    return (V - v).flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)


def test_with_axes_and_local_residuals_the_identity_is_exact_at_noise_and_approximate_elsewhere(data):
    """The error is of first order in the spread of the residual variances."""
    full = GaussianPrior.fit(data, 4)
    far, near = identity_error(equalise(full, 0.03)), identity_error(equalise(full, 0.003))
    assert far[-1] < 1e-12 and near[-1] < 1e-12 and (far[:-1] > 1e-6).all()
    torch.testing.assert_close(near[:-1], far[:-1] / 10, rtol=0.3, atol=0)


def test_the_velocity_coefficient_is_finite_at_r_equals_t():
    """At r = t it is d log s / dt; for r close to t, the quotient of the definition."""
    variance, (t, _) = torch.tensor([0.0, 0.3, 4.0], dtype=torch.float64), times()
    expected = ((1 + variance) * t[:, None] - variance) / ((1 - t[:, None]) ** 2 * variance + t[:, None] ** 2)
    torch.testing.assert_close(velocity_coefficient(variance, t, t), expected)
    s = lambda t: ((1 - t[:, None]) ** 2 * variance + t[:, None] ** 2).sqrt()  # noqa: E731
    r = t - 1e-3
    torch.testing.assert_close(velocity_coefficient(variance, t, r), (1 - s(r) / s(t)) / 1e-3)


@pytest.mark.parametrize("velocity_head", [False, True])
@pytest.mark.parametrize("n_axes", [0, 3])
def test_an_untrained_network_equals_its_prior(n_axes, velocity_head):
    """The last layer is zero at initialisation."""
    net = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
    latents = seeds.noise(3, list(range(8)), (4, 4, 4, 4))
    prior = GaussianPrior.fit(latents, n_axes)
    u = run.build_network(net, "x", prior=prior, velocity_head=velocity_head).eval()
    eps, one = seeds.noise(4, [0, 1], (4, 4, 4, 4)), torch.ones(2)
    torch.testing.assert_close(flow.sample(u, eps), prior(eps, one, 0 * one))
    assert u.outputs(eps, one, one).shape[1] == 4 * (1 + velocity_head)
