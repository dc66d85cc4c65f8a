"""MeanFlow formulas against the closed form of Gaussian data, and checks that planted faults are detected.

Data N(MEAN, SIGMA^2) per channel and noise N(0, 1) give z_t ~ N((1 - t) MEAN, std(t)^2), and the flow maps
quantiles to quantiles: z_r = mean(r) + std(r) / std(t) (z_t - mean(t)). u and v follow from this line.
"""

import inspect
import types

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from neuromf.core import seeds
from neuromf.meanflow import flow

MEANS = torch.tensor([0.0, 0.7, -1.2], dtype=torch.float64)[:, None, None, None]
SIGMAS = torch.tensor([0.5, 1.0, 0.2], dtype=torch.float64)[:, None, None, None]


def at(t):
    """Times (B,) as (B, 1, 1, 1, 1)."""
    return t[:, None, None, None, None]


def mean(t):
    return (1 - at(t)) * MEANS


def std(t):
    return (((1 - at(t)) * SIGMAS) ** 2 + at(t) ** 2).sqrt()


def u_exact(z, t, r):
    """(z_t - z_r) / (t - r), and its limit v at r = t."""
    h = torch.where(r < t, t - r, torch.ones_like(t))
    average = (z - mean(r) - std(r) / std(t) * (z - mean(t))) / at(h)
    return torch.where(at(r < t), average, v_exact(z, t))


def central_difference(u, z, t, r, v, step=1e-5):
    """du/dt along the path, from two further network evaluations; the error is of order step^2."""
    return (u(z + step * v, t + step, r) - u(z - step * v, t - step, r)) / (2 * step)


def v_exact(z, t):
    """d mean / dt + d log std / dt (z - mean)."""
    return (at(t) - (1 - at(t)) * SIGMAS**2) / std(t) ** 2 * (z - mean(t)) - MEANS


def normal(*shape, key="flow"):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def latents(key="flow"):
    return normal(6, 3, 2, 2, 2, key=key)


def increasing_times():
    return torch.linspace(0.3, 1.0, 6, dtype=torch.float64)


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


def message(error):
    return str(error.value)


# --- checks; each takes the module, so that it can be applied to the planted faults below ------------


def check_path(flow):
    x, eps = latents("x"), latents("eps")
    zero, one, t = torch.zeros(6).double(), torch.ones(6).double(), increasing_times()
    close(flow.interpolate(x, eps, zero)[0], x)
    close(flow.interpolate(x, eps, one)[0], eps)
    z, v = flow.interpolate(x, eps, t)
    close(torch.func.jvp(lambda t: flow.interpolate(x, eps, t)[0], (t,), (one,)), (z, v))


def check_conversions(flow):
    x, eps = latents("x"), latents("eps")
    z, v = flow.interpolate(x, eps, increasing_times())
    close(flow.velocity_from_data(x, z, increasing_times()), v)
    for t in (increasing_times(), torch.tensor([0, 1e-9, 0.01, 0.049, 0.05, 0.051]).double()):
        v = flow.velocity_from_data(x, z, t)
        assert v.isfinite().all()
        close(flow.data_from_velocity(v, z, t), x)
        close(v, (z - x) / at(t.clamp(min=0.05)))


def pairs(half_equal=False):
    """Latents z, times t and r (half of them equal if requested), and a tangent."""
    z, t = latents(), increasing_times()
    moving = torch.tensor([True, False, True, True, False, False]) if half_equal else torch.ones(6).bool()
    return z, t, torch.where(moving, 0.4 * t, t), latents("v")


def check_fixed_point(flow):
    z, t, r, _ = pairs(half_equal=True)
    v = v_exact(z, t)
    for derivative in flow.DERIVATIVES.values():
        close(flow.implied_velocity(*derivative(u_exact, z, t, r, v), t, r), v)


def check_derivative(flow):
    z, t = latents(), increasing_times()
    r, v = 0.4 * t, latents("v")
    u_t, du_dt = flow.total_derivative(u_exact, z, t, r, v)
    close(u_t, u_exact(z, t, r))
    close(du_dt, central_difference(u_exact, z, t, r, v), rtol=1e-6, atol=1e-7)


def check_derivatives_agree(flow):
    """Every derivative returns u everywhere, du/dt where r < t and zero elsewhere."""
    z, t, r, v = pairs(half_equal=True)
    du_dt = flow.total_derivative(u_exact, z, t, r, v)[1]
    expected = u_exact(z, t, r), torch.where(at(r < t), du_dt, torch.zeros_like(du_dt))
    for derivative in flow.DERIVATIVES.values():
        close(derivative(u_exact, z, t, r, v), expected)


def check_gradients(flow):
    """The gradient of V = u + (t - r) sg[du/dt] is the gradient of u."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    z, t, r, v = pairs(half_equal=True)
    for derivative in flow.DERIVATIVES.values():
        u, du_dt = derivative(lambda z, t, r: a * u_exact(z, t, r), z, t, r, v)
        assert not du_dt.requires_grad
        close(torch.autograd.grad(flow.implied_velocity(u, du_dt, t, r).sum(), a)[0], u_exact(z, t, r).sum())
    du_dt = a * flow.total_derivative(u_exact, z, t, r, v)[1]
    u = a * u_exact(z, t, r)
    close(torch.autograd.grad(flow.implied_velocity(u, du_dt, t, r).sum(), a)[0], u_exact(z, t, r).sum())


def check_batches_with_one_kind_of_pair(flow):
    z, t, r, v = pairs()
    for r_ in (r, t):
        for derivative in flow.DERIVATIVES.values():
            u, du_dt = derivative(u_exact, z, t, r_, v)
            close(u, u_exact(z, t, r_))
            assert du_dt.any() == (r_ < t).any()


def check_predicted_tangent(flow):
    """u(z, t, t) where r < t, without gradient; no other pair is evaluated."""
    z, t, r, _ = pairs(half_equal=True)
    a, sizes = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), []
    tangent = flow.predicted_tangent(lambda z, t, r: sizes.append(len(z)) or a * u_exact(z, t, r), z, t, r)
    assert sizes == [3] and not tangent.requires_grad
    close(tangent, torch.where(at(r < t), 0.7 * v_exact(z, t), torch.zeros_like(z)))


def check_samples_land_on_the_data(flow):
    z = latents()
    for n in (1, 2, 7):
        close(flow.sample(u_exact, z, flow.uniform_times(n)), MEANS + SIGMAS * z)


def check_losses(flow):
    V, v = latents("V"), latents("v")
    for p, weights in ((1, None), (1.5, None), (2, None), (3, None), ((1, 1.5, 3), None), ((2, 1, 1.5), (0.5, 2, 1))):
        p_c = np.reshape(np.broadcast_to(p, 3), (1, 3, 1, 1, 1))
        w_c = np.reshape([1, 1, 1] if weights is None else weights, (1, 3, 1, 1, 1))
        expected = (w_c * np.abs(V.numpy() - v.numpy()) ** p_c).sum((1, 2, 3, 4))
        close(flow.channel_lp(V, v, p, weights), torch.tensor(expected))
    close(flow.raw_loss(V, v), flow.channel_lp(V, v) / V[0].numel())


def check_adaptive_weight(flow):
    loss = torch.tensor([0.0, 0.1, 5.0, 300.0], dtype=torch.float64, requires_grad=True)
    for power, c in ((1.0, 0.01), (0.75, 1e-3)):
        gradient = torch.autograd.grad(flow.adaptively_weighted(loss, power=power, c=c).sum(), loss)[0]
        close(gradient, (loss.detach() + c) ** -power)
        other = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
        weighted = flow.adaptively_weighted(loss, other, power=power, c=c).sum()
        of_loss, of_other = torch.autograd.grad(weighted, (loss, other), allow_unused=True)
        close(of_loss, (other.detach() + c) ** -power)
        assert of_other is None


def check_regression_target(flow):
    """v where r = t, the teacher velocity elsewhere."""
    v, teacher_v, t = latents("v"), latents("said"), increasing_times()
    r = torch.where(torch.arange(6) < 3, t, 0.5 * t)
    close(flow.regression_target(v, teacher_v, t, r), torch.cat([v[:3], teacher_v[3:]]))


def check_times(flow):
    """r <= t, fractions are exact, and corner pairs are in the corner."""
    fractions = {"fraction_r_equals_t": 0.3, "fraction_corner": 0.2}
    t, r = flow.draw_times(1000, seeds.generator("times"), r_logit_normal=None, **fractions)
    assert (r == t).sum() == 300
    t, r = flow.draw_times(1000, seeds.generator("times"), max_interval=0.25, **fractions)
    assert (r <= t).all() and (t - r).max() == pytest.approx(0.25)
    t, r = flow.draw_times(4000, seeds.generator("times"), fraction_r_equals_t=0.0, fraction_uniform=1.0)
    assert kstest(t**2, "uniform").pvalue > 0.01 and kstest(r / t, "uniform").pvalue > 0.01
    t, r = flow.draw_times(1000, seeds.generator("times"), **fractions)
    assert ((0 <= r) & (r <= t) & (t <= 1)).all()
    assert (r == t)[:300].all() and not (r == t)[-200:].any()
    corner = (t > 0.9) & (r < 0.1)
    assert corner[-200:].all() and corner[:800].float().mean() < 0.05
    assert kstest(10 * r[-200:], "uniform").pvalue > 0.01 and kstest(10 * (1 - t[-200:]), "uniform").pvalue > 0.01


def check_euler_order(flow):
    """The error at the endpoint falls as 1/n."""
    z, n_steps = latents(), [16, 32, 64, 128]
    ends = [flow.euler(u_exact, z, flow.uniform_times(n)) for n in n_steps]
    errors = [(x - MEANS - SIGMAS * z).abs().max().item() for x in ends]
    assert -np.polyfit(np.log2(n_steps), np.log2(errors), 1)[0] == pytest.approx(1, abs=0.15)


def test_the_path_runs_from_data_to_noise():
    check_path(flow)


def test_conversions_of_data_and_velocity_are_inverse_below_t_min_too():
    check_conversions(flow)


def test_the_exact_average_velocity_implies_the_exact_velocity():
    check_fixed_point(flow)


def test_the_total_derivative_equals_central_differences_along_the_path():
    check_derivative(flow)


def test_derivatives_agree_and_differentiate_only_pairs_with_r_below_t():
    check_derivatives_agree(flow)


def test_the_predicted_tangent_is_the_instantaneous_velocity():
    check_predicted_tangent(flow)


def test_a_batch_may_have_only_pairs_of_one_kind():
    check_batches_with_one_kind_of_pair(flow)


def test_gradient_flows_through_the_prediction_and_not_through_its_derivative():
    check_gradients(flow)


def test_sampling_ends_on_the_data_for_any_nfe():
    check_samples_land_on_the_data(flow)


def test_P3_T6_channel_lp_equals_numpy_for_every_exponent_and_mixed_ones():
    check_losses(flow)


def test_the_adaptive_weight_divides_the_gradient_by_loss_plus_c():
    check_adaptive_weight(flow)


def test_euler_has_first_order():
    check_euler_order(flow)


def test_where_r_equals_t_the_implied_velocity_is_the_prediction_itself():
    z, t = latents(), increasing_times()
    for derivative in flow.DERIVATIVES.values():
        V = flow.implied_velocity(*derivative(u_exact, z, t, t, latents("v")), t, t)
        close(V, v_exact(z, t), rtol=0, atol=0)


def test_the_residuals_of_mf_and_imf_agree():
    z, t, r, v = pairs()
    u, du_dt = flow.two_pass(u_exact, z, t, r, v)
    target = v - at(t - r) * du_dt
    close(flow.implied_velocity(u, du_dt, t, r) - v, u - target)


def test_zero_noise_has_zero_loss():
    assert not flow.channel_lp(latents(), latents(), 1.5).any() and not flow.raw_loss(latents(), latents()).any()


def test_P3_T4_the_loss_is_finite_and_positive():
    x, eps, t = latents("x"), latents("eps"), increasing_times()
    z, v = flow.interpolate(x, eps, t)
    V = flow.implied_velocity(*flow.single_pass(u_exact, z, t, 0.4 * t, v), t, 0.4 * t)
    loss = flow.adaptively_weighted(flow.channel_lp(V, v))
    assert loss.shape == (6,) and loss.isfinite().all() and (loss > 0).all()


# --- times -------------------------------------------------------------------------------------------


def logit(x):
    return np.log(x) - np.log1p(-x)


def two_distribution_cdfs(t_logit_normal=(-0.6, 1.6), r_logit_normal=(-4.0, 1.6)):
    """Exact distributions of t, and of r = min(t, other)."""
    t_normal, r_normal = norm(*t_logit_normal), norm(*r_logit_normal)
    return lambda t: t_normal.cdf(logit(t)), lambda r: 1 - t_normal.sf(logit(r)) * r_normal.sf(logit(r))


def sorted_cdfs(parameters=(-0.4, 1.0)):
    """Exact distributions of the maximum and minimum of two draws from one distribution."""
    return lambda t: norm(*parameters).cdf(logit(t)) ** 2, lambda r: 1 - norm(*parameters).sf(logit(r)) ** 2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "settings, cdfs",
    [({}, two_distribution_cdfs()), ({"t_logit_normal": (-0.4, 1.0), "r_logit_normal": None}, sorted_cdfs())],
    ids=["two distributions", "one distribution, sorted"],
)
def test_P3_T7_times_follow_their_exact_distributions(settings, cdfs, seed):
    t, r = flow.draw_times(10_000, seeds.generator("times", seed), fraction_r_equals_t=0.0, **settings)
    assert t.dtype == r.dtype == torch.float64 and t.shape == r.shape == (10_000,)
    assert kstest(t.numpy(), cdfs[0]).pvalue > 0.01
    assert kstest(r.numpy(), cdfs[1]).pvalue > 0.01


def test_P3_T7_fractions_are_exact():
    check_times(flow)


def test_P3_T7_long_intervals_have_their_exact_probability():
    """P(h > 0.9) with the default distributions is 0.0243 (standard error at 100k draws: 0.0005)."""
    t, r = flow.draw_times(100_000, seeds.generator("times"), fraction_r_equals_t=0.0)
    assert ((t - r) > 0.9).double().mean().item() == pytest.approx(0.0243, abs=0.002)
    assert ((t - r) > 0.8).double().mean().item() == pytest.approx(0.081, abs=0.003)


def test_P3_T7_two_distributions_give_more_pairs_with_r_equal_to_t():
    """P(r drawn above t) = Phi(-3.4 / (1.6 sqrt(2))) = 6.65 % (standard error 0.08 %)."""
    t, r = flow.draw_times(100_000, seeds.generator("times"), fraction_r_equals_t=0.0)
    assert (r == t).double().mean().item() == pytest.approx(norm.cdf(-3.4 / (1.6 * 2**0.5)), abs=0.003)


def test_P3_T7_equal_generators_draw_equal_times():
    first, again = (torch.stack(flow.draw_times(50, seeds.generator("times", 3))) for _ in range(2))
    close(first, again, rtol=0, atol=0)


@pytest.mark.parametrize("equal, corner", [(0, 0), (1, 0), (0, 1), (0.5, 0.5), (0.999, 0.001)])
def test_P3_T7_fractions_may_sum_to_one(equal, corner):
    fractions = {"fraction_r_equals_t": equal, "fraction_corner": corner}
    t, r = flow.draw_times(1000, seeds.generator("times"), r_logit_normal=None, **fractions)
    assert (r == t).sum() == 1000 * equal and ((t > 0.9) & (r < 0.1)).sum() >= 1000 * corner


def test_uniform_times_are_equal_steps_from_one_to_zero():
    assert flow.uniform_times(1) == [1.0, 0.0]
    assert flow.uniform_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_sampling_has_no_gradient_and_one_network_evaluation_per_interval():
    a, calls = torch.ones((), dtype=torch.float64, requires_grad=True), []
    u = lambda z, t, r: calls.append((t[0].item(), r[0].item())) or a * z  # noqa: E731
    assert not flow.sample(u, latents(), flow.uniform_times(2)).requires_grad
    assert calls == [(1.0, 0.5), (0.5, 0.0)]


def test_a_wrong_time_shape_is_rejected():
    with pytest.raises(ValueError) as error:
        flow.expand_as(torch.ones(6, 1), latents())
    assert message(error) == "times must have shape (6,), one per sample of z; got (6, 1)"


def test_fractions_above_one_are_rejected():
    with pytest.raises(ValueError) as error:
        flow.draw_times(8, seeds.generator("times"), fraction_r_equals_t=0.5, fraction_corner=0.6)
    assert message(error) == (
        "fractions of time pairs must be in [0, 1] and sum to at most 1; "
        "got fraction_r_equals_t=0.5, fraction_corner=0.6, fraction_uniform=0.0"
    )


def test_a_wrong_number_of_exponents_is_rejected():
    with pytest.raises(ValueError) as error:
        flow.channel_lp(latents(), latents(), (2, 2), (1, 1, 1, 1))
    assert message(error) == "exponents and weights must be one per channel (3); got 2 and 4"


def test_zero_network_evaluations_are_rejected():
    with pytest.raises(ValueError) as error:
        flow.uniform_times(0)
    assert message(error) == "a sample needs at least one network evaluation; got nfe=0"


# --- training on Gaussian data, whose average velocity is known -----------------------------------------


class Linear(torch.nn.Module):
    """u = a(t, h) z + b(t, h) per channel; the exact u of a Gaussian has this form."""

    def __init__(self, width=64):
        super().__init__()
        inner = [torch.nn.Linear(2, width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU()]
        self.coefficients = torch.nn.Sequential(*inner, torch.nn.Linear(width, 6)).double()

    def forward(self, z, t, r):
        a, b = self.coefficients(torch.stack([t, t - r], dim=1))[..., None, None, None].chunk(2, dim=1)
        return a * z + b


def gaussian_batch(n, *key):
    """Data, noise and times of a training batch."""
    draw = seeds.generator("linear", *key)
    x, eps = torch.randn(2, n, 3, 2, 2, 2, generator=draw, dtype=torch.float64)
    return MEANS + SIGMAS * x, eps, *flow.draw_times(n, draw, fraction_r_equals_t=0.5, fraction_uniform=0.5)


def test_training_on_gaussian_data_finds_the_closed_form():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u, n_steps = Linear(), 2500
    optimiser = torch.optim.Adam(u.parameters(), lr=1e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for step in range(n_steps):
        x, eps, t, r = gaussian_batch(256, step)
        z, v = flow.interpolate(x, eps, t)
        V = flow.implied_velocity(*flow.single_pass(u, z, t, r, v), t, r)
        optimiser.zero_grad()
        flow.channel_lp(V, v).mean().backward()
        optimiser.step()
        schedule.step()
    x, eps, t, _ = gaussian_batch(2000, "unseen")
    z, r = flow.interpolate(x, eps, t)[0], t * torch.rand(2000, generator=seeds.generator("r"), dtype=torch.float64)
    error, exact = (u(z, t, r) - u_exact(z, t, r)).detach(), u_exact(z, t, r)
    assert error.square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


def test_the_mean_of_v_given_z_is_the_exact_velocity():
    """Hence a teacher velocity replaces v without changing the expected gradient, and without its noise."""
    n, time = 200_000, torch.tensor([0.8], dtype=torch.float64)
    z = mean(time)[0] + 0.5 * std(time)[0]  # (3, 1, 1, 1)
    slope = (1 - time) * SIGMAS**2 / std(time)[0] ** 2
    posterior_std = SIGMAS * time / std(time)[0]
    noise = torch.randn(n, 3, 1, 1, 1, generator=seeds.generator("pairs"), dtype=torch.float64)
    x = MEANS + slope * (z - mean(time)[0]) + posterior_std * noise
    v = (z - x) / time
    close(v.mean(0, keepdim=True), v_exact(z[None], time), atol=5 * float(v.std(0).max()) / n**0.5, rtol=0)
    assert v.std(0).min() > 0.2


# --- planted faults: every wrong formula must fail at least one check --------------------------------

CHECKS = [check for name, check in list(globals().items()) if name.startswith("check_")]

FAULTS = {
    "velocity points to the data": ("v = eps - x", "v = x - eps"),
    "path runs backwards": (
        "z = (1 - expand_as(t, x)) * x + expand_as(t, x) * eps",
        "z = (1 - expand_as(t, x)) * eps + expand_as(t, x) * x",
    ),
    "data conversion has the wrong sign": ("return (z - x) / expand_as", "return (x - z) / expand_as"),
    "only one conversion is clipped": (
        "return z - expand_as(t, z).clamp(min=T_MIN) * v",
        "return z - expand_as(t, z) * v",
    ),
    "no clip": ("T_MIN = 0.05", "T_MIN = 0.0"),
    "t is not differentiated": ("u(dual_z, dual_t, r)", "u(dual_z, t, r)"),
    "z is not differentiated": ("u(dual_z, dual_t, r)", "u(z, dual_t, r)"),
    "r moves instead of t": (
        "u(dual_z, dual_t, r)",
        "u(dual_z, t, forward_ad.make_dual(r, torch.ones_like(r)))",
    ),
    "times are swapped": ("u(dual_z, dual_t, r)", "u(dual_z, r, dual_t)"),
    "two_pass differentiates at r = t": ("torch.nonzero(r < t)", "torch.nonzero(r == t)"),
    "single_pass differentiates at r = t": ("moving = r < t", "moving = r == t"),
    "single_pass returns samples out of order": ("u_dual])[order], du_dt[order]", "u_dual]), du_dt"),
    "gradient through the derivative of single_pass": ("du_dual.detach()", "du_dual"),
    "tangent of the interval": ("u(z[moving], t[moving], t[moving])", "u(z[moving], t[moving], r[moving])"),
    "interval has the wrong sign": ("return u + expand_as(t - r, u)", "return u + expand_as(r - t, u)"),
    "gradient through the derivative": ("du_dt.detach()", "du_dt"),
    "no gradient through the prediction": ("return u + expand_as", "return u.detach() + expand_as"),
    "gradient through the weight": (".detach() + c)", " + c)"),
    "weight from the minimised loss": ("loss if weight_loss is None else weight_loss", "loss"),
    "teacher velocity at r = t": ("expand_as(r < t, v), teacher_v, v", "expand_as(r < t, v), v, teacher_v"),
    "loss without modulus": ("error = (V - v).abs()", "error = V - v"),
    "mean instead of sum": (".sum(1) for c,", ".mean(1) for c,"),
    "r above t": ("torch.minimum(t, other)) if", "torch.maximum(t, other)) if"),
    "pairs with r = t in the wrong place": ("index < n_equal, t,", "index >= n_equal, t,"),
    "corner at the wrong end": ("1 - corner[0] / 10", "corner[0] / 10"),
    "uniform pairs swapped": ("uniform.amax(0), t", "uniform.amin(0), t"),
    "maximum interval as a minimum": ("torch.maximum(r, t - max_interval)", "torch.minimum(r, t - max_interval)"),
    "sampling runs towards noise": (
        "z = z - expand_as(t - r, z) * u(z, t, r)",
        "z = z + expand_as(t - r, z) * u(z, t, r)",
    ),
    "Euler uses the average velocity": ("lambda z, t, r: u(z, t, t)", "lambda z, t, r: u(z, t, r)"),
}


def planted(old, new):
    """The flow module with every occurrence of `old` in its source replaced by `new`."""
    source = inspect.getsource(flow)
    assert old in source, f"the fault {old!r} -> {new!r} is not in flow.py; update FAULTS"
    module = types.ModuleType("flow_with_a_fault")
    exec(compile(source.replace(old, new), "flow_with_a_fault.py", "exec"), module.__dict__)
    return module


def fails(check, module):
    try:
        check(module)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_detected(fault):
    module = planted(*FAULTS[fault])
    assert any(fails(check, module) for check in CHECKS), f"no check detects: {fault}"


def test_the_checks_pass_on_the_module_itself():
    assert not [check.__name__ for check in CHECKS if fails(check, planted("", ""))]
