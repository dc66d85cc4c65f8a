"""Mean flows against the Gaussian, whose average velocity is known in closed form, and against planted faults.

Data N(MEAN, SIGMA^2) per channel and noise N(0, 1) give z_t ~ N((1 - t) MEAN, std(t)^2), and the flow carries
quantiles to quantiles: z_r = mean(r) + std(r) / std(t) (z_t - mean(t)). From that line follow u and v.
"""

import inspect
import types
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from neuromf.core import seeds
from neuromf.meanflow import flow

MEANS = torch.tensor([0.0, 0.7, -1.2], dtype=torch.float64)[:, None, None, None]
SIGMAS = torch.tensor([0.5, 1.0, 0.2], dtype=torch.float64)[:, None, None, None]


def at(t):
    """Times (B,) against latents (B, C, I, J, K)."""
    return t[:, None, None, None, None]


def mean(t):
    return (1 - at(t)) * MEANS


def std(t):
    return (((1 - at(t)) * SIGMAS) ** 2 + at(t) ** 2).sqrt()


def u_exact(z, t, r):
    """(z_t - z_r) / (t - r), and its limit v where r = t."""
    h = torch.where(r < t, t - r, torch.ones_like(t))
    moved = (z - mean(r) - std(r) / std(t) * (z - mean(t))) / at(h)
    return torch.where(at(r < t), moved, v_exact(z, t))


def v_exact(z, t):
    """d mean / dt + d log std / dt (z - mean)."""
    return (at(t) - (1 - at(t)) * SIGMAS**2) / std(t) ** 2 * (z - mean(t)) - MEANS


def normal(*shape, key="flow"):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def latents(key="flow"):
    return normal(6, 3, 2, 2, 2, key=key)


def increasing_times():
    return torch.linspace(0.3, 1.0, 6, dtype=torch.float64)


def close(got, wanted, **tolerance):
    torch.testing.assert_close(got, wanted, **tolerance)


def message(error):
    return str(error.value)


# --- the oracle: each check takes the module, so that the planted faults below meet the same ones ---------------


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


def pairs(some_still=False):
    """Latents z, times t and r, half of them equal where wanted, and a tangent."""
    z, t = latents(), increasing_times()
    moving = torch.tensor([True, False, True, True, False, False]) if some_still else torch.ones(6).bool()
    return z, t, torch.where(moving, 0.4 * t, t), latents("v")


def check_fixed_point(flow):
    z, t, r, _ = pairs(some_still=True)
    v = v_exact(z, t)
    for form in flow.DERIVATIVES.values():
        close(flow.implied_velocity(*form(u_exact, z, t, r, v), t, r), v, rtol=1e-4, atol=1e-4)
    for form in (flow.single_pass, flow.two_pass):
        close(flow.implied_velocity(*form(u_exact, z, t, r, v), t, r), v)


def check_derivative(flow):
    z, t = latents(), increasing_times()
    r, v, step = 0.4 * t, latents("v"), 1e-5
    u_t, du_dt = flow.total_derivative(u_exact, z, t, r, v)
    ahead, behind = (u_exact(z + s * v, t + s, r) for s in (step, -step))
    close(u_t, u_exact(z, t, r))
    close(du_dt, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


def check_forms_agree(flow):
    """Every form gives u everywhere and du/dt where r < t, zero elsewhere; the exact ones to the last digit."""
    z, t, r, v = pairs(some_still=True)
    du_dt = flow.total_derivative(u_exact, z, t, r, v)[1]
    wanted = u_exact(z, t, r), torch.where(at(r < t), du_dt, torch.zeros_like(du_dt))
    for form in (flow.single_pass, flow.two_pass):
        close(form(u_exact, z, t, r, v), wanted)
    close(flow.DERIVATIVES["differences"](u_exact, z, t, r, v), wanted, rtol=1e-3, atol=1e-3)
    finer = partial(flow.central_difference, step=5e-4)
    errors = [
        (flow.two_pass(u_exact, z, t, r, v, d)[1] - wanted[1]).abs().max() for d in (flow.central_difference, finer)
    ]
    assert 80 < errors[0] / errors[1] < 120  # second order


def check_gradients(flow):
    """Gradient of V = u + (t - r) sg[du/dt] is that of u alone, in every form."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    z, t, r, v = pairs(some_still=True)
    for form in flow.DERIVATIVES.values():
        u, du_dt = form(lambda z, t, r: a * u_exact(z, t, r), z, t, r, v)
        assert not du_dt.requires_grad
        close(torch.autograd.grad(flow.implied_velocity(u, du_dt, t, r).sum(), a)[0], u_exact(z, t, r).sum())
    du_dt = a * flow.total_derivative(u_exact, z, t, r, v)[1]
    u = a * u_exact(z, t, r)
    close(torch.autograd.grad(flow.implied_velocity(u, du_dt, t, r).sum(), a)[0], u_exact(z, t, r).sum())


def check_some_batches_hold_one_kind(flow):
    z, t, r, v = pairs()
    for r_ in (r, t):
        for form in (flow.single_pass, flow.two_pass):
            u, du_dt = form(u_exact, z, t, r_, v)
            close(u, u_exact(z, t, r_))
            assert du_dt.any() == (r_ < t).any()


def check_predicted_tangent(flow):
    """u(z, t, t) where r < t, without gradient and without touching the others."""
    z, t, r, _ = pairs(some_still=True)
    a, seen = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), []
    along = flow.predicted_tangent(lambda z, t, r: seen.append(len(z)) or a * u_exact(z, t, r), z, t, r)
    assert seen == [3] and not along.requires_grad
    close(along, torch.where(at(r < t), 0.7 * v_exact(z, t), torch.zeros_like(z)))


def check_samples_land_on_the_data(flow):
    z = latents()
    for n in (1, 2, 7):
        close(flow.sample(u_exact, z, flow.uniform_times(n)), MEANS + SIGMAS * z)


def check_losses(flow):
    V, v = latents("V"), latents("v")
    for p, weights in ((1, None), (1.5, None), (2, None), (3, None), ((1, 1.5, 3), None), ((2, 1, 1.5), (0.5, 2, 1))):
        p_c = np.reshape(np.broadcast_to(p, 3), (1, 3, 1, 1, 1))
        w_c = np.reshape([1, 1, 1] if weights is None else weights, (1, 3, 1, 1, 1))
        wanted = (w_c * np.abs(V.numpy() - v.numpy()) ** p_c).sum((1, 2, 3, 4))
        close(flow.channel_lp(V, v, p, weights), torch.tensor(wanted))
    close(flow.raw_loss(V, v), flow.channel_lp(V, v) / V[0].numel())


def check_adaptive_weight(flow):
    loss = torch.tensor([0.0, 0.1, 5.0, 300.0], dtype=torch.float64, requires_grad=True)
    for power, c in ((1.0, 0.01), (0.75, 1e-3)):
        gradient = torch.autograd.grad(flow.adaptively_weighted(loss, power=power, c=c).sum(), loss)[0]
        close(gradient, (loss.detach() + c) ** -power)
        seen = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
        weighed = flow.adaptively_weighted(loss, seen, power=power, c=c).sum()
        by_loss, by_seen = torch.autograd.grad(weighed, (loss, seen), allow_unused=True)
        close(by_loss, (seen.detach() + c) ** -power)
        assert by_seen is None


def check_regressed(flow):
    """v where r = t, what the network says of it elsewhere."""
    v, said, t = latents("v"), latents("said"), increasing_times()
    r = torch.where(torch.arange(6) < 3, t, 0.5 * t)
    close(flow.regression_target(v, said, t, r), torch.cat([v[:3], said[3:]]))


def check_times(flow):
    """Every pair is ordered, shares are exact, and corner pairs lie in the corner."""
    shares = {"fraction_r_equals_t": 0.3, "fraction_corner": 0.2}
    t, r = flow.draw_times(1000, seeds.generator("times"), r_logit_normal=None, **shares)
    assert (r == t).sum() == 300
    t, r = flow.draw_times(1000, seeds.generator("times"), max_interval=0.25, **shares)
    assert (r <= t).all() and (t - r).max() == pytest.approx(0.25)
    t, r = flow.draw_times(4000, seeds.generator("times"), fraction_r_equals_t=0.0, fraction_uniform=1.0)
    assert kstest(t**2, "uniform").pvalue > 0.01 and kstest(r / t, "uniform").pvalue > 0.01
    t, r = flow.draw_times(1000, seeds.generator("times"), **shares)
    assert ((0 <= r) & (r <= t) & (t <= 1)).all()
    assert (r == t)[:300].all() and not (r == t)[-200:].any()
    corner = (t > 0.9) & (r < 0.1)
    assert corner[-200:].all() and corner[:800].float().mean() < 0.05
    assert kstest(10 * r[-200:], "uniform").pvalue > 0.01 and kstest(10 * (1 - t[-200:]), "uniform").pvalue > 0.01


def check_orders(flow):
    """Error against the exact endpoint falls as 1/n for Euler, 1/n^2 for Heun."""
    z, n_steps = latents(), [16, 32, 64, 128]
    for solve, order in ((flow.euler, 1), (flow.heun, 2)):
        ends = [solve(u_exact, z, flow.uniform_times(n)) for n in n_steps]
        errors = [(x - MEANS - SIGMAS * z).abs().max().item() for x in ends]
        slope = np.polyfit(np.log2(n_steps), np.log2(errors), 1)[0]
        assert -slope == pytest.approx(order, abs=0.15)


def test_the_path_runs_from_data_to_noise_at_its_own_velocity():
    check_path(flow)


def test_data_and_velocity_are_inverse_even_below_the_clip():
    check_conversions(flow)


def test_the_exact_average_velocity_implies_the_exact_velocity():
    check_fixed_point(flow)


def test_the_total_derivative_equals_central_differences_along_the_path():
    check_derivative(flow)


def test_all_forms_of_the_derivative_agree_and_differentiate_only_pairs_with_r_below_t():
    check_forms_agree(flow)


def test_the_predicted_tangent_is_what_the_network_says_of_v():
    check_predicted_tangent(flow)


def test_a_batch_may_hold_one_kind_of_pair_only():
    check_some_batches_hold_one_kind(flow)


def test_gradient_flows_through_the_prediction_and_not_through_its_derivative():
    check_gradients(flow)


def test_any_number_of_steps_lands_on_the_data():
    check_samples_land_on_the_data(flow)


def test_P3_T6_channel_lp_equals_numpy_for_every_exponent_and_mixed_ones():
    check_losses(flow)


def test_the_adaptive_weight_divides_the_gradient_by_loss_plus_c():
    check_adaptive_weight(flow)


def test_euler_has_first_order_and_heun_second():
    check_orders(flow)


def test_where_r_equals_t_the_implied_velocity_is_the_prediction_itself():
    z, t = latents(), increasing_times()
    for form in flow.DERIVATIVES.values():
        V = flow.implied_velocity(*form(u_exact, z, t, t, latents("v")), t, t)
        close(V, v_exact(z, t), rtol=0, atol=0)


def test_both_ways_to_write_the_residual_agree():
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


def two_law_cdfs(t_logit_normal=(-0.6, 1.6), r_logit_normal=(-4.0, 1.6)):
    """Exact distributions of t, and of r = min(t, other)."""
    law_t, law_r = norm(*t_logit_normal), norm(*r_logit_normal)
    return lambda t: law_t.cdf(logit(t)), lambda r: 1 - law_t.sf(logit(r)) * law_r.sf(logit(r))


def swapped_cdfs(law=(-0.4, 1.0)):
    """Exact distributions of the larger and of the smaller of two draws of one law."""
    return lambda t: norm(*law).cdf(logit(t)) ** 2, lambda r: 1 - norm(*law).sf(logit(r)) ** 2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "laws, cdfs",
    [({}, two_law_cdfs()), ({"t_logit_normal": (-0.4, 1.0), "r_logit_normal": None}, swapped_cdfs())],
    ids=["two laws", "one law, swapped"],
)
def test_P3_T7_times_follow_their_exact_distributions(laws, cdfs, seed):
    t, r = flow.draw_times(10_000, seeds.generator("times", seed), fraction_r_equals_t=0.0, **laws)
    assert t.dtype == r.dtype == torch.float64 and t.shape == r.shape == (10_000,)
    assert kstest(t.numpy(), cdfs[0]).pvalue > 0.01
    assert kstest(r.numpy(), cdfs[1]).pvalue > 0.01


def test_P3_T7_shares_are_exact_and_the_corner_is_the_corner():
    check_times(flow)


def test_P3_T7_long_intervals_have_the_mass_that_is_stated():
    """P(h > 0.9) of the two-law sampler is 0.0243 (standard error at 100k draws: 0.0005)."""
    t, r = flow.draw_times(100_000, seeds.generator("times"), fraction_r_equals_t=0.0)
    assert ((t - r) > 0.9).double().mean().item() == pytest.approx(0.0243, abs=0.002)
    assert ((t - r) > 0.8).double().mean().item() == pytest.approx(0.081, abs=0.003)


def test_P3_T7_two_laws_tie_some_pairs_beyond_the_share_asked_for():
    """r = min(t, other) is t where other > t: in Phi(-3.4 / (1.6 sqrt(2))) = 6.65 % of the pairs (s.e. 0.08 %)."""
    t, r = flow.draw_times(100_000, seeds.generator("times"), fraction_r_equals_t=0.0)
    assert (r == t).double().mean().item() == pytest.approx(norm.cdf(-3.4 / (1.6 * 2**0.5)), abs=0.003)


def test_P3_T7_equal_generators_draw_equal_times():
    first, again = (torch.stack(flow.draw_times(50, seeds.generator("times", 3))) for _ in range(2))
    close(first, again, rtol=0, atol=0)


@pytest.mark.parametrize("equal, corner", [(0, 0), (1, 0), (0, 1), (0.5, 0.5), (0.999, 0.001)])
def test_P3_T7_shares_may_fill_the_batch(equal, corner):
    shares = {"fraction_r_equals_t": equal, "fraction_corner": corner}
    t, r = flow.draw_times(1000, seeds.generator("times"), r_logit_normal=None, **shares)
    assert (r == t).sum() == 1000 * equal and ((t > 0.9) & (r < 0.1)).sum() >= 1000 * corner


def test_uniform_times_are_equal_steps_from_one_to_zero():
    assert flow.uniform_times(1) == [1.0, 0.0]
    assert flow.uniform_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_sampling_asks_for_no_gradient_and_costs_one_evaluation_per_interval():
    a, calls = torch.ones((), dtype=torch.float64, requires_grad=True), []
    u = lambda z, t, r: calls.append((t[0].item(), r[0].item())) or a * z  # noqa: E731
    assert not flow.sample(u, latents(), flow.uniform_times(2)).requires_grad
    assert calls == [(1.0, 0.5), (0.5, 0.0)]


# --- errors, in full ---------------------------------------------------------------------------------


def test_a_wrong_time_shape_is_named_in_full():
    with pytest.raises(ValueError) as error:
        flow.expand_as(torch.ones(6, 1), latents())
    assert message(error) == "times must have shape (6,), one per sample of z; got (6, 1)"


def test_impossible_shares_are_named_in_full():
    with pytest.raises(ValueError) as error:
        flow.draw_times(8, seeds.generator("times"), fraction_r_equals_t=0.5, fraction_corner=0.6)
    assert message(error) == (
        "shares of time pairs must be in [0, 1] and sum to at most 1; "
        "got fraction_r_equals_t=0.5, fraction_corner=0.6, fraction_uniform=0.0"
    )


def test_a_wrong_number_of_exponents_is_named_in_full():
    with pytest.raises(ValueError) as error:
        flow.channel_lp(latents(), latents(), (2, 2), (1, 1, 1, 1))
    assert message(error) == "exponents and weights must be one per channel (3); got 2 and 4"


def test_no_evaluations_are_refused():
    with pytest.raises(ValueError) as error:
        flow.uniform_times(0)
    assert message(error) == "a sample needs at least one evaluation; got n_steps=0"


# --- training, where the answer is known ---------------------------------------------------------------


class Linear(torch.nn.Module):
    """u = a(t, h) z + b(t, h) per channel: linear in z, as the exact u of a Gaussian is."""

    def __init__(self, width=64):
        super().__init__()
        inner = [torch.nn.Linear(2, width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU()]
        self.coefficients = torch.nn.Sequential(*inner, torch.nn.Linear(width, 6)).double()

    def forward(self, z, t, r):
        a, b = self.coefficients(torch.stack([t, t - r], dim=1))[..., None, None, None].chunk(2, dim=1)
        return a * z + b


def gaussian_batch(n, *key):
    """Data, noise and times of a training batch, from the Gaussian of this file."""
    draw = seeds.generator("linear", *key)
    x, eps = torch.randn(2, n, 3, 4, 4, 4, generator=draw, dtype=torch.float64)
    return MEANS + SIGMAS * x, eps, *flow.draw_times(n, draw, fraction_r_equals_t=0.5, fraction_uniform=0.5)


def test_a_linear_network_trained_on_gaussian_data_finds_the_closed_form():
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


def test_what_a_network_says_of_v_stands_in_for_pairs_without_their_noise():
    """Pairs through one z have the velocities whose mean is v_exact, and deviations that the other target is spared."""
    n, time = 200_000, torch.tensor([0.8], dtype=torch.float64)
    draw = seeds.generator("pairs")
    z = mean(time)[0] + 0.5 * std(time)[0]  # (3, 1, 1, 1)
    slope = (1 - time) * SIGMAS**2 / std(time)[0] ** 2
    left = SIGMAS * time / std(time)[0]  # standard deviation of x given z
    x = MEANS + slope * (z - mean(time)[0]) + left * torch.randn(n, 3, 1, 1, 1, generator=draw, dtype=torch.float64)
    v = (z - x) / time
    said = v_exact(z[None], time)
    close(v.mean(0, keepdim=True), said, atol=5 * float(v.std(0).max()) / n**0.5, rtol=0)
    assert v.std(0).min() > 0.2


# --- planted faults: a check that no wrong formula can fail is no check ----------------------------------------

CHECKS = [check for name, check in list(globals().items()) if name.startswith("check_")]

FAULTS = {
    "velocity points to the noise": ("v = eps - x", "v = x - eps"),
    "path runs backwards": (
        "z = (1 - like(t, x)) * x + like(t, x) * eps",
        "z = (1 - like(t, x)) * eps + like(t, x) * x",
    ),
    "data conversion has the wrong sign": ("return (z - x) / like", "return (x - z) / like"),
    "only one conversion is clipped": ("return z - like(t, z).clamp(min=T_MIN) * v", "return z - like(t, z) * v"),
    "no clip": ("T_MIN = 0.05", "T_MIN = 0.0"),
    "t is not differentiated": ("u(moving_z, moving_t, r)", "u(moving_z, t, r)"),
    "z is not differentiated": ("u(moving_z, moving_t, r)", "u(z, moving_t, r)"),
    "r moves instead of t": (
        "u(moving_z, moving_t, r)",
        "u(moving_z, t, forward_ad.make_dual(r, torch.ones_like(r)))",
    ),
    "times are swapped": ("u(moving_z, moving_t, r)", "u(moving_z, r, moving_t)"),
    "lean differentiates where r = t": ("torch.nonzero(r < t)", "torch.nonzero(r == t)"),
    "joint differentiates where r = t": ("moving = r < t", "moving = r == t"),
    "joint leaves samples out of order": ("u_on])[back], du_dt[back]", "u_on]), du_dt"),
    "gradient through the derivative of joint": ("du_on.detach()", "du_on"),
    "differences backwards": ("(ahead - behind)", "(behind - ahead)"),
    "differences over one step": ("/ (2 * step)", "/ step"),
    "differences at one time": ("u(z + s * v, t + s, r)", "u(z + s * v, t, r)"),
    "tangent of the interval": ("u(z[moving], t[moving], t[moving])", "u(z[moving], t[moving], r[moving])"),
    "interval has the wrong sign": ("return u + like(t - r, u)", "return u + like(r - t, u)"),
    "gradient through the derivative": ("du_dt.detach()", "du_dt"),
    "no gradient through the prediction": ("return u + like", "return u.detach() + like"),
    "gradient through the weight": (".detach() + c)", " + c)"),
    "weight of the loss that is minimised": ("loss if seen is None else seen", "loss"),
    "own velocity where r = t": ("like(r < t, v), said, v", "like(r < t, v), v, said"),
    "loss without modulus": ("error = (V - v).abs()", "error = V - v"),
    "mean instead of sum": (".sum(1) for c,", ".mean(1) for c,"),
    "r above t": ("torch.minimum(t, other)) if", "torch.maximum(t, other)) if"),
    "equal pairs moved": ("place < n_equal, t,", "place >= n_equal, t,"),
    "corner at the wrong end": ("1 - corner[0] / 10", "corner[0] / 10"),
    "uniform pairs upside down": ("uniform.amax(0), t", "uniform.amin(0), t"),
    "gap held from the wrong side": ("torch.maximum(r, t - max_interval)", "torch.minimum(r, t - max_interval)"),
    "sampling runs upwards": ("z = z - like(t - r, z) * u(z, t, r)", "z = z + like(t - r, z) * u(z, t, r)"),
    "Euler uses the average velocity": ("lambda z, t, r: u(z, t, t)", "lambda z, t, r: u(z, t, r)"),
    "Heun forgets its second slope": ("(slope + u(ahead, r, r)) / 2", "slope"),
}


def planted(old, new):
    """The flow module with one piece of its source replaced, everywhere it stands."""
    source = inspect.getsource(flow)
    assert old in source, f"the fault {old!r} -> {new!r} finds nothing to replace in flow.py; update FAULTS"
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
def test_every_planted_fault_is_caught(fault):
    module = planted(*FAULTS[fault])
    assert any(fails(check, module) for check in CHECKS), f"no check notices: {fault}"


def test_the_checks_pass_on_the_module_itself():
    assert not [check.__name__ for check in CHECKS if fails(check, planted("", ""))]
