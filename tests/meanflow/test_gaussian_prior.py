"""The flow of a Gaussian in closed form: against its own path, its endpoint, its posterior mean, and the identity."""

import pytest
import torch

from neuromf.core import seeds
from neuromf.meanflow import flow, run
from neuromf.meanflow.gaussian_prior import GaussianPrior, principal_axes, velocity_coefficient

SHAPE = (3, 2, 2, 2)


def normal(*shape, key=0):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


@pytest.fixture
def data():
    """Forty points of a Gaussian with a mean and a few strong directions."""
    mixing = normal(6, 24, key="mixing")
    return (1.0 + normal(40, 6) @ mixing).view(40, *SHAPE)


@pytest.fixture
def prior(data):
    """One variance off the axes for all elements: there the closed form is exact."""
    return alike(GaussianPrior.fit(data, 4))


@pytest.fixture
def places(data):
    """No axes, and a covariance of its own at each position: there it is exact, too."""
    return GaussianPrior.fit(data, 0)


def alike(base, share=0.0):
    """The rest of a base drawn towards the same variance for all elements, of which a share stays as it was."""
    return GaussianPrior(
        base.mean, base.axes, base.variances, 0.3 + share * (base.residual_variance - 0.3), base.eigenvectors
    )


def rest_of(base):
    """The covariance of channels off the axes, (C, C, I, J, K)."""
    return torch.einsum("cdijk,dijk,edijk->ceijk", base.eigenvectors, base.residual_variance, base.eigenvectors)


def covariance_of(base):
    """Of the data: along the axes, and off them."""
    one = torch.eye(2, dtype=torch.float64)
    each = torch.einsum("cdijk,il,jm,kn->cijkdlmn", rest_of(base), one, one, one).reshape(24, 24)
    off = torch.eye(24, dtype=torch.float64) - base.axes.T @ base.axes
    return base.axes.T @ torch.diag(base.variances) @ base.axes + off @ each @ off


def noisy_covariance(base, time):
    """Of z at a time."""
    return (1 - time) ** 2 * covariance_of(base) + time**2 * torch.eye(24, dtype=torch.float64)


def u_of(base):
    return lambda z, t, r: flow.velocity_from_data(base(z, t, r), z, t, 1e-9)


def times(n=5):
    t = torch.linspace(0.2, 1.0, n, dtype=torch.float64)
    return t, 0.3 * t


def test_axes_are_orthonormal_and_their_variances_those_of_the_data(data):
    mean, axes, variances = principal_axes(data, 4)
    torch.testing.assert_close(axes @ axes.T, torch.eye(4, dtype=torch.float64))
    along = (data - mean).flatten(1) @ axes.T
    torch.testing.assert_close(along.var(0, correction=0), variances)
    covariance = torch.cov(data.flatten(1).T, correction=0)
    torch.testing.assert_close(variances, torch.linalg.eigvalsh(covariance).flip(0)[:4])


def test_there_are_no_more_axes_than_people_less_one(data):
    assert len(principal_axes(data[:5], 64)[2]) == 4
    assert len(principal_axes(data, 0)[2]) == 0


def test_the_rest_is_the_covariance_of_channels_that_the_axes_leave(data):
    base = GaussianPrior.fit(data, 4)
    off = (data - base.mean).flatten(1)
    off = (off - (off @ base.axes.T) @ base.axes).view_as(data)
    torch.testing.assert_close(rest_of(base)[:, :, 0, 1, 1], torch.cov(off[:, :, 0, 1, 1].T, correction=0))
    assert (GaussianPrior.fit(data[:5], 64).residual_variance.abs() < 1e-9).all()


@pytest.mark.parametrize("kind", ["base", "places"])
def test_at_r_equals_t_it_is_the_posterior_mean(kind, request):
    """E[x | z] = m + C (1 - t) ((1 - t)^2 C + t^2)^-1 (z - (1 - t) m)."""
    base, (t, _) = request.getfixturevalue(kind), times()
    z, m = normal(5, *SHAPE), base.mean.flatten()
    covariance = covariance_of(base)
    for one, time, got in zip(z, t, base(z, t, t), strict=True):
        noisy = noisy_covariance(base, time)
        wanted = m + (1 - time) * covariance @ torch.linalg.solve(noisy, one.flatten() - (1 - time) * m)
        torch.testing.assert_close(got.flatten(), wanted)


def test_what_the_network_is_shown_has_unit_covariance(places):
    """Twice over it is ((1 - t)^2 C + t^2)^-1 (z - (1 - t) m)."""
    (t, r), m = times(), places.mean
    z = normal(5, *SHAPE)
    once = places.whiten(z, t, r)[0]
    twice = places.whiten(once + (1 - flow.expand_as(t, z)) * m, t, r)[0]
    for time, one, got in zip(t, z, twice, strict=True):
        wanted = torch.linalg.solve(noisy_covariance(places, time), (one - (1 - time) * m).flatten())
        torch.testing.assert_close(got.flatten(), wanted)


def test_what_the_network_gives_is_in_units_of_what_z_leaves_open(places):
    """Twice over it is the posterior covariance, t^2 C ((1 - t)^2 C + t^2)^-1; nothing at t = 0."""
    t, a = times()[0], normal(5, *SHAPE)
    twice = places.posterior_noise(places.posterior_noise(a, t), t)
    for time, one, got in zip(t, a, twice, strict=True):
        wanted = time**2 * covariance_of(places) @ torch.linalg.solve(noisy_covariance(places, time), one.flatten())
        torch.testing.assert_close(got.flatten(), wanted)
    assert not places.posterior_noise(a, 0 * t).any()


@pytest.mark.parametrize("kind", ["base", "places"])
def test_from_noise_to_data_it_is_a_draw_of_the_gaussian(kind, request):
    """x = m + C^(1/2) eps: one evaluation from t = 1 to r = 0."""
    base = request.getfixturevalue(kind)
    eps, one = normal(5, *SHAPE), torch.ones(5, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance_of(base))
    drawn = eps.flatten(1) @ (vectors * values.sqrt()) @ vectors.T
    torch.testing.assert_close(base(eps, one, 0 * one), base.mean + drawn.view_as(eps))


def test_at_time_0_it_is_what_is_seen_and_finite_without_any_rest(base):
    none, zero = torch.zeros(5, dtype=torch.float64), torch.zeros_like(base.residual_variance)
    z = normal(5, *SHAPE)
    torch.testing.assert_close(base(z, none, none), z)
    assert GaussianPrior(base.mean, base.axes, base.variances, zero)(z, none, none).isfinite().all()


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_any_number_of_steps_lands_on_the_same_point(base, n_steps):
    """Of an average velocity, steps compose."""
    eps = normal(5, *SHAPE)
    torch.testing.assert_close(flow.sample(u_of(base), eps, flow.uniform_times(n_steps)), flow.sample(u_of(base), eps))


@pytest.mark.parametrize("kind", ["base", "places"])
def test_it_obeys_the_mean_flow_identity(kind, request):
    """u + (t - r) du/dt along the path of v = u(z, t, t) is v."""
    base = request.getfixturevalue(kind)
    (t, r), z, u = times(), normal(5, *SHAPE), u_of(base)
    v = u(z, t, t)
    torch.testing.assert_close(flow.implied_velocity(*flow.two_pass(u, z, t, r, v), t, r), v, rtol=1e-6, atol=1e-6)


def departure(base):
    """How far V is from v along a path, over the size of v, at each of `times`."""
    (t, r), z, u = times(), normal(5, *SHAPE), u_of(base)
    v = u(z, t, t)
    V = flow.implied_velocity(*flow.two_pass(u, z, t, r, v), t, r)
    return (V - v).flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)


def test_positions_with_a_rest_of_their_own_beside_axes_obey_it_at_noise_and_nearly_elsewhere(data):
    """The departure is of first order in how much they differ: a tenth of the spread leaves a tenth of it."""
    full = GaussianPrior.fit(data, 4)
    far, near = departure(alike(full, 0.03)), departure(alike(full, 0.003))
    assert far[-1] < 1e-12 and near[-1] < 1e-12 and (far[:-1] > 1e-6).all()
    torch.testing.assert_close(near[:-1], far[:-1] / 10, rtol=0.3, atol=0)


def test_slopes_have_no_zero_over_zero_at_r_equals_t():
    """At r = t the slope is d log s / dt; just beside it is the quotient of the definition."""
    variance, (t, _) = torch.tensor([0.0, 0.3, 4.0], dtype=torch.float64), times()
    wanted = ((1 + variance) * t[:, None] - variance) / ((1 - t[:, None]) ** 2 * variance + t[:, None] ** 2)
    torch.testing.assert_close(velocity_coefficient(variance, t, t), wanted)
    s = lambda t: ((1 - t[:, None]) ** 2 * variance + t[:, None] ** 2).sqrt()  # noqa: E731
    r = t - 1e-3
    torch.testing.assert_close(velocity_coefficient(variance, t, r), (1 - s(r) / s(t)) / 1e-3)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("n_axes", [0, 3])
def test_a_new_network_is_its_base(data, n_axes, head):
    """The last layer starts at zero, so untrained samples are draws of the Gaussian; so does the second head."""
    net = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
    latents = seeds.noise(3, list(range(8)), (4, 4, 4, 4))
    base = GaussianPrior.fit(latents, n_axes)
    u = run.build_network(net, "x", prior=base, head=head).eval()
    eps, one = seeds.noise(4, [0, 1], (4, 4, 4, 4)), torch.ones(2)
    torch.testing.assert_close(flow.sample(u, eps), base(eps, one, 0 * one))
    assert u.outputs(eps, one, one).shape[1] == 4 * (1 + head)
