r"""Mean flows: the path from data to noise, the average velocity along it, and how to learn it.

Time runs from t = 0 (data) to t = 1 (noise), as in the MeanFlow papers; times are unitless, r <= t,
h = t - r. A point on the path is z = (1 - t) x + t eps and moves at v = eps - x. The average velocity
u(z, t, r) over [r, t] takes z_t to z_r = z_t - (t - r) u, so one evaluation makes a sample:
x = eps - u(eps, t=1, r=0). Times have shape (B,), everything else (B, C, I, J, K) or any (B, ...).

Nothing here draws a random number without a generator, or knows of networks, files or devices.

References:
    MF: Mean Flows for One-step Generative Modeling (Geng et al., 2025), arXiv:2505.13447
    iMF: Improved Mean Flows (Geng et al., 2025), arXiv:2512.02012
    pMF: One-step Latent-free Image Generation with Pixel Mean Flows (2026), arXiv:2601.22158
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd import forward_ad

MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # u(z, t, r), shaped like z

T_MIN = 0.05  # below this t, data and velocity are converted as if t were this (pMF, section 3)


def expand_as(t: Tensor, z: Tensor) -> Tensor:
    """Shape (B,) times as (B, 1, ...), so that they broadcast against z."""
    if t.shape != z.shape[:1]:
        wanted = tuple(z.shape[:1])
        raise ValueError(f"times must have shape {wanted}, one per sample of z; got {tuple(t.shape)}")
    return t.view(-1, *[1] * (z.ndim - 1))


# --- path and conversions ----------------------------------------------------------------------------


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point z and velocity v at time t on the straight line from data x to noise eps."""
    z = (1 - expand_as(t, x)) * x + expand_as(t, x) * eps
    v = eps - x
    return z, v


def velocity_from_data(x: Tensor, z: Tensor, t: Tensor, t_min: float = T_MIN) -> Tensor:
    """Velocity (z - x) / max(t, t_min) of the line that leaves x at time 0 and passes z at time t.

    In training the same clip turns a network's data prediction and the true x into velocities, so below
    t_min prediction and target shrink by one factor and their loss stays consistent (pMF, section 3).
    """
    return (z - x) / expand_as(t, z).clamp(min=t_min)


def data_from_velocity(v: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Inverse of `velocity_from_data`: x = z - max(t, T_MIN) v."""
    return z - expand_as(t, z).clamp(min=T_MIN) * v


def training_path(x: Tensor, eps: Tensor, t: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """Point z at time t and the velocity to regress there, clipped where the prediction ("x" or "u") is."""
    z, v = interpolate(x, eps, t)
    return z, velocity_from_data(x, z, t) if prediction == "x" else v


# --- times -------------------------------------------------------------------------------------------


def logit_normal(n: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """n draws of sigmoid(N(mean, std^2)), float64, with shape (n,)."""
    return torch.sigmoid(mean + std * torch.randn(n, generator=generator, dtype=torch.float64))


def draw_times(
    n: int,
    generator: torch.Generator,
    *,
    t_logit_normal: tuple[float, float] = (-0.6, 1.6),
    r_logit_normal: tuple[float, float] | None = (-4.0, 1.6),
    fraction_r_equals_t: float = 0.5,
    fraction_corner: float = 0.0,
    fraction_uniform: float = 0.0,
    max_interval: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Training times t and r <= t, each with shape (n,), float64.

    The two-law sampler of the authors' CIFAR recipe: t and r are logit-normal, and r becomes min(t, r).
    With r_logit_normal None both follow t_logit_normal and are swapped into order (MF, table 1d). The first
    round(n * fraction_r_equals_t) pairs get r = t (with two laws some others tie as well, where r was drawn above t),
    the last round(n * fraction_corner) are uniform in the corner t > 0.9, r < 0.1 of one-step sampling, and
    round(n * fraction_uniform) before them are uniform in r <= t.

    Arguments:
        n: How many pairs.
        generator: Source of chance.
        t_logit_normal: Mean and standard deviation of logit(t).
        r_logit_normal: Likewise for r.
        fraction_r_equals_t: Share of plain flow-matching pairs, in [0, 1].
        fraction_corner: Share of corner pairs, in [0, 1 - fraction_r_equals_t].
        fraction_uniform: Share of uniform pairs, likewise.
        max_interval: r is raised to t - max_interval where it lies below: intervals that grow as training goes on.
    """
    shares = {
        "fraction_r_equals_t": fraction_r_equals_t,
        "fraction_corner": fraction_corner,
        "fraction_uniform": fraction_uniform,
    }
    if min(shares.values()) < 0 or sum(shares.values()) > 1:
        named = ", ".join(f"{name}={share}" for name, share in shares.items())
        raise ValueError(f"shares of time pairs must be in [0, 1] and sum to at most 1; got {named}")
    t, other = (
        logit_normal(n, *t_logit_normal, generator),
        logit_normal(n, *(r_logit_normal or t_logit_normal), generator),
    )
    t, r = (t, torch.minimum(t, other)) if r_logit_normal else (torch.maximum(t, other), torch.minimum(t, other))
    corner, uniform = torch.rand(2, 2, n, generator=generator, dtype=torch.float64)
    place, n_equal = torch.arange(n), round(n * fraction_r_equals_t)
    in_corner = place >= (first := n - round(n * fraction_corner))
    in_uniform = (place >= first - round(n * fraction_uniform)) & ~in_corner
    t = torch.where(in_corner, 1 - corner[0] / 10, torch.where(in_uniform, uniform.amax(0), t))
    r = torch.where(in_corner, corner[1] / 10, torch.where(in_uniform, uniform.amin(0), r))
    return t, torch.where(place < n_equal, t, torch.maximum(r, t - max_interval))


# --- the MeanFlow identity ---------------------------------------------------------------------------


def total_derivative(u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""u(z, t, r) and its derivative along the path at fixed r, by one forward-mode pass without autocast.

    .. math:: \frac{d}{dt} u(z_t, t, r) = \partial_z u \cdot v + \partial_t u        (MF, eq. 8)
    """
    with torch.autocast(z.device.type, enabled=False), forward_ad.dual_level():
        moving_z, moving_t = forward_ad.make_dual(z, v), forward_ad.make_dual(t, torch.ones_like(t))
        out, du_dt = forward_ad.unpack_dual(u(moving_z, moving_t, r))
    return out, torch.zeros_like(out) if du_dt is None else du_dt


def central_difference(
    u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor, step: float = 5e-3
) -> tuple[Tensor, Tensor]:
    """u and its derivative along the path from two more evaluations, for networks without a forward mode.

    The error is of order step^2, and rounding adds the precision over step: 2e-5 in float32, and noise in bf16.
    """
    with torch.autocast(z.device.type, enabled=False):
        ahead, behind = (u(z + s * v, t + s, r) for s in (step, -step))
        return u(z, t, r), (ahead - behind) / (2 * step)


def single_pass(u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """u with gradient and du/dt without, in one forward-mode pass where r < t and one plain pass elsewhere.

    The fastest form: nothing is evaluated twice. The pass keeps the activations of u and of its derivative.
    """
    moving = r < t
    parts = torch.nonzero(~moving)[:, 0], torch.nonzero(moving)[:, 0]
    still, on = ((z[part], t[part], r[part]) for part in parts)
    u_still = u(*still) if len(parts[0]) else z[parts[0]]
    if not len(parts[1]):
        return u_still, torch.zeros_like(u_still)
    u_on, du_on = total_derivative(u, *on, v[parts[1]])
    back = torch.argsort(torch.cat(parts))
    du_dt = torch.cat([u_on.new_zeros(len(parts[0]), *u_on.shape[1:]), du_on.detach()])
    return torch.cat([u_still.to(u_on), u_on])[back], du_dt[back]


def two_pass(
    u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor, derivative: Callable = total_derivative
) -> tuple[Tensor, Tensor]:
    """The same from a plain pass for u and one without gradient for du/dt: little more memory than flow matching."""
    out = u(z, t, r)
    du_dt, moving = torch.zeros_like(out), torch.nonzero(r < t)[:, 0]
    if len(moving):
        with torch.no_grad():
            du_dt[moving] = derivative(u, z[moving], t[moving], r[moving], v[moving])[1].to(du_dt)
    return out, du_dt


DERIVATIVES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "joint": single_pass,
    "lean": two_pass,
    "differences": partial(two_pass, derivative=central_difference),
}  # how u (with gradient) and du/dt (without, and zero where r = t: h = 0 cancels it there) are computed


@torch.no_grad()
def predicted_tangent(u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """What the network itself says of v at (z, t): u(z, t, t), where r < t, and zero elsewhere (iMF, section 3).

    It depends on z alone, as the identity demands; eps - x adds the noise of single pairs to the derivative.
    """
    along, moving = torch.zeros_like(z), r < t
    if moving.any():
        with torch.autocast(z.device.type, enabled=False):
            along[moving] = u(z[moving], t[moving], t[moving])
    return along


def regression_target(v: Tensor, said: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""What V is regressed on where the network's own velocity stands in for v = eps - x at r < t, with shape (B, ...).

    With :math:`\hat v(z, t) = E[v \mid z]` both give the same gradient on average, since V depends on z alone:

    .. math:: E[(V - v) \, \partial_\theta u \mid z] = (V - \hat v) \, \partial_\theta u

    but that of single pairs carries the noise of eps - x, which near t = 1 is all of the data's variance. What the
    network says of v is learned from data, at r = t, alone.

    Arguments:
        v: Velocity of the path, eps - x.
        said: What the network says of it where r < t, of `predicted_tangent`.
    """
    return torch.where(expand_as(r < t, v), said, v)


def implied_velocity(u: Tensor, du_dt: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""The velocity V at z that an average velocity implies, regressed on v (iMF, section 3).

    .. math:: V = u(z, t, r) + (t - r) \, \mathrm{sg}\!\left[\frac{d}{dt} u(z_t, t, r)\right]

    V - v equals u - sg[v - (t - r) du/dt], the residual of MF eq. 10: one loss, two ways to write it.
    """
    return u + expand_as(t - r, u) * du_dt.detach()


# --- losses ------------------------------------------------------------------------------------------


def channel_lp(
    V: Tensor, v: Tensor, p: Sequence[float] | float = 2.0, weights: Sequence[float] | None = None
) -> Tensor:
    r"""Sum over channels and positions of weight_c |V_c - v_c|^{p_c}, one value per sample, with shape (B,).

    Only p = 2 has the conditional mean, and so the true velocity field, as its minimiser; other
    exponents trade that bias for another weighting of large errors.

    Arguments:
        V: Implied velocity, with shape (B, C, ...).
        v: Velocity of the path, likewise.
        p: One exponent, or one per channel.
        weights: One factor per channel; ones where None.
    """
    n_channels = V.shape[1]
    p = [p] * n_channels if isinstance(p, (int, float)) else list(p)
    weights = [1.0] * n_channels if weights is None else list(weights)
    if len(p) != n_channels or len(weights) != n_channels:
        raise ValueError(
            f"exponents and weights must be one per channel ({n_channels}); got {len(p)} and {len(weights)}"
        )
    error = (V - v).abs().flatten(2)
    parts = [w * (error[:, c] ** q).sum(1) for c, (q, w) in enumerate(zip(p, weights, strict=True))]
    return torch.stack(parts, 1).sum(1)


def adaptively_weighted(loss: Tensor, seen: Tensor | None = None, *, power: float = 1.0, c: float = 0.01) -> Tensor:
    """Per-sample losses (B,), summed over elements, each divided by its own sg[(loss + c)^power] (MF, eq. 22).

    The weight hides growth: a run is judged by the raw loss, never by this one.

    Arguments:
        loss: What is minimised.
        seen: What sets the weight, where that is another loss.
    """
    return loss / ((loss if seen is None else seen).detach() + c) ** power


def raw_loss(V: Tensor, v: Tensor) -> Tensor:
    """Mean squared error per element of each sample, with shape (B,): the number that judges a run."""
    return ((V - v) ** 2).flatten(1).mean(1).detach()


# --- samplers ----------------------------------------------------------------------------------------


def uniform_times(n_steps: int) -> list[float]:
    """Times 1, ..., 0 of n_steps equal steps."""
    if n_steps < 1:
        raise ValueError(f"a sample needs at least one evaluation; got n_steps={n_steps}")
    return [1 - i / n_steps for i in range(n_steps + 1)]


def intervals(z: Tensor, times: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each time and the next one, both (B,) as z (B, ...) is."""
    for t, r in zip(times[:-1], times[1:], strict=True):
        yield z.new_full(z.shape[:1], t), z.new_full(z.shape[:1], r)


@torch.no_grad()
def sample(u: MeanVelocity, z: Tensor, times: Sequence[float] = (1.0, 0.0)) -> Tensor:
    """Follow u from noise z at times[0] down to times[-1], one evaluation per interval (MF, eq. 12)."""
    for t, r in intervals(z, times):
        z = z - expand_as(t - r, z) * u(z, t, r)
    return z


@torch.no_grad()
def euler(u: MeanVelocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """First-order steps along the instantaneous field u(z, t, t): the sampler of Rectified Flow."""
    return sample(lambda z, t, r: u(z, t, t), z, times)


@torch.no_grad()
def heun(u: MeanVelocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Second-order steps along u(z, t, t): the mean of the slopes at both ends, two evaluations per interval."""
    for t, r in intervals(z, times):
        slope = u(z, t, t)
        ahead = z - expand_as(t - r, z) * slope
        z = z - expand_as(t - r, z) * (slope + u(ahead, r, r)) / 2
    return z


SAMPLERS: dict[str, tuple[Callable, int]] = {  # and the evaluations that each takes for an interval
    "mean": (sample, 1),
    "euler": (euler, 1),
    "heun": (heun, 2),
}
