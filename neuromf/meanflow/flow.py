r"""MeanFlow: the path from data to noise, the average velocity along it, its training loss, and samplers.

Time runs from t = 0 (data) to t = 1 (noise); r <= t, and h = t - r is the interval length. A point on the path is
z = (1 - t) x + t eps, with velocity v = eps - x. The average velocity u(z, t, r) over [r, t] satisfies
z_r = z_t - (t - r) u, so that one network evaluation generates a sample: x = eps - u(eps, t=1, r=0).
Times have shape (B,), all other tensors (B, C, I, J, K) or any (B, ...). All random draws take a generator.

References:
    MF: Mean Flows for One-step Generative Modeling (Geng et al., 2025), arXiv:2505.13447
    iMF: Improved Mean Flows (Geng et al., 2025), arXiv:2512.02012
    pMF: One-step Latent-free Image Generation with Pixel Mean Flows (2026), arXiv:2601.22158
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # u(z, t, r), with the shape of z

T_MIN = 0.05  # lower bound of t in the conversion between data and velocity (pMF, section 3)


def expand_as(t: Tensor, z: Tensor) -> Tensor:
    """Times (B,) as (B, 1, ...), to broadcast against z."""
    if t.shape != z.shape[:1]:
        expected = tuple(z.shape[:1])
        raise ValueError(f"times must have shape {expected}, one per sample of z; got {tuple(t.shape)}")
    return t.view(-1, *[1] * (z.ndim - 1))


def interpolate(x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point z and velocity v at time t on the straight path from data x to noise eps."""
    z = (1 - expand_as(t, x)) * x + expand_as(t, x) * eps
    v = eps - x
    return z, v


def velocity_from_data(x: Tensor, z: Tensor, t: Tensor, t_min: float = T_MIN) -> Tensor:
    """Velocity (z - x) / max(t, t_min) of the straight path through x at time 0 and z at time t.

    In training, the predicted x and the true x are converted with the same bound. Below t_min this scales prediction
    and target by the same factor, so that the loss remains consistent (pMF, section 3).
    """
    return (z - x) / expand_as(t, z).clamp(min=t_min)


def data_from_velocity(v: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Inverse of `velocity_from_data`: x = z - max(t, T_MIN) v."""
    return z - expand_as(t, z).clamp(min=T_MIN) * v


def training_path(x: Tensor, eps: Tensor, t: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """Point z at time t, and the velocity to regress on: clipped at T_MIN if the network predicts "x"."""
    z, v = interpolate(x, eps, t)
    return z, velocity_from_data(x, z, t) if prediction == "x" else v


def logit_normal(n: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """n draws of sigmoid(N(mean, std^2)), float64, shape (n,)."""
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
    """Training times t and r <= t, float64, shape (n,) each.

    t and r are logit-normal, and r is replaced by min(t, r), as in the CIFAR-10 configuration of the MeanFlow authors.
    If r_logit_normal is None, both are drawn from t_logit_normal and sorted (MF, table 1d).

    Arguments:
        n: Number of pairs.
        generator: Random generator.
        t_logit_normal: Mean and standard deviation of logit(t).
        r_logit_normal: Mean and standard deviation of logit(r).
        fraction_r_equals_t: Fraction of flow-matching pairs (the first ones). With two distributions, more pairs have
            r = t: those whose r was drawn above t.
        fraction_corner: Fraction of pairs uniform in t > 0.9, r < 0.1, near one-step generation (the last ones).
        fraction_uniform: Fraction of pairs uniform in r <= t (before the corner pairs).
        max_interval: Maximum t - r; r is raised to t - max_interval.
    """
    fractions = {
        "fraction_r_equals_t": fraction_r_equals_t,
        "fraction_corner": fraction_corner,
        "fraction_uniform": fraction_uniform,
    }
    if min(fractions.values()) < 0 or sum(fractions.values()) > 1:
        found = ", ".join(f"{name}={fraction}" for name, fraction in fractions.items())
        raise ValueError(f"fractions of time pairs must be in [0, 1] and sum to at most 1; got {found}")
    t = logit_normal(n, *t_logit_normal, generator)
    other = logit_normal(n, *(r_logit_normal or t_logit_normal), generator)
    t, r = (t, torch.minimum(t, other)) if r_logit_normal else (torch.maximum(t, other), torch.minimum(t, other))
    corner, uniform = torch.rand(2, 2, n, generator=generator, dtype=torch.float64)
    index, n_equal = torch.arange(n), round(n * fraction_r_equals_t)
    in_corner = index >= (first := n - round(n * fraction_corner))
    in_uniform = (index >= first - round(n * fraction_uniform)) & ~in_corner
    t = torch.where(in_corner, 1 - corner[0] / 10, torch.where(in_uniform, uniform.amax(0), t))
    r = torch.where(in_corner, corner[1] / 10, torch.where(in_uniform, uniform.amin(0), r))
    return t, torch.where(index < n_equal, t, torch.maximum(r, t - max_interval))


def total_derivative(
    u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    r"""u(z, t, r) and its derivative along the path at fixed r, from one forward-mode pass.

    .. math:: \frac{d}{dt} u(z_t, t, r) = \partial_z u \cdot v + \partial_t u        (MF, eq. 8)

    Arguments:
        precision: "float32", or "bf16" for autocast of values and tangents alike.
    """
    with torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"), forward_ad.dual_level():
        dual_z, dual_t = forward_ad.make_dual(z, v), forward_ad.make_dual(t, torch.ones_like(t))
        out, du_dt = forward_ad.unpack_dual(u(dual_z, dual_t, r))
    out = out.to(z)
    return out, torch.zeros_like(out) if du_dt is None else du_dt.to(z)


def single_pass(
    u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """u with gradient, and du/dt without: pairs with r < t in one forward-mode pass, pairs with r = t in a plain pass.

    du/dt is zero where r = t, since it is multiplied by h = 0. Fastest; stores the activations of u and du/dt.
    `precision` is that of the forward-mode pass, see `total_derivative`.
    """
    moving = r < t
    parts = torch.nonzero(~moving)[:, 0], torch.nonzero(moving)[:, 0]
    plain, dual = ((z[part], t[part], r[part]) for part in parts)
    u_plain = u(*plain) if len(parts[0]) else z[parts[0]]
    if not len(parts[1]):
        return u_plain, torch.zeros_like(u_plain)
    u_dual, du_dual = total_derivative(u, *dual, v[parts[1]], precision)
    order = torch.argsort(torch.cat(parts))
    du_dt = torch.cat([u_dual.new_zeros(len(parts[0]), *u_dual.shape[1:]), du_dual.detach()])
    return torch.cat([u_plain.to(u_dual), u_dual])[order], du_dt[order]


def two_pass(
    u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """du/dt from one pass without gradient, then u with gradient from a second: memory close to flow matching.

    In this order the memory of the first pass is free before activations are stored. `precision` is that of the first
    pass, see `total_derivative`.
    """
    moving, derivative = torch.nonzero(r < t)[:, 0], None
    if len(moving):
        with torch.no_grad():
            derivative = total_derivative(u, z[moving], t[moving], r[moving], v[moving], precision)[1]
    out = u(z, t, r)
    du_dt = torch.zeros_like(out)
    if derivative is not None:
        du_dt[moving] = derivative.to(du_dt)
    return out, du_dt


DERIVATIVES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"single_pass": single_pass, "two_pass": two_pass}


@torch.no_grad()
def predicted_tangent(u: MeanVelocity, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Predicted instantaneous velocity u(z, t, t) where r < t, zero elsewhere (iMF, section 3).

    It depends on z alone, as the MeanFlow identity requires; eps - x adds the noise of single pairs to du/dt.
    """
    tangent, moving = torch.zeros_like(z), r < t
    if moving.any():
        with torch.autocast(z.device.type, enabled=False):
            tangent[moving] = u(z[moving], t[moving], t[moving])
    return tangent


def regression_target(v: Tensor, teacher_v: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""Regression target of V with a teacher: `teacher_v` where r < t, v = eps - x where r = t; shape (B, ...).

    For :math:`\hat v(z, t) = E[v \mid z]` both targets have the same expected gradient, since V depends on z alone:

    .. math:: E[(V - v) \, \partial_\theta u \mid z] = (V - \hat v) \, \partial_\theta u

    The teacher velocity lacks the noise of eps - x, which near t = 1 is the entire variance of the data. The velocity
    itself is learned from data, at r = t.

    Arguments:
        v: Velocity of the path, eps - x.
        teacher_v: Velocity predicted by the teacher where r < t, see `predicted_tangent`.
    """
    return torch.where(expand_as(r < t, v), teacher_v, v)


def implied_velocity(u: Tensor, du_dt: Tensor, t: Tensor, r: Tensor) -> Tensor:
    r"""Velocity V implied by an average velocity, to be regressed on v (iMF, section 3).

    .. math:: V = u(z, t, r) + (t - r) \, \mathrm{sg}\!\left[\frac{d}{dt} u(z_t, t, r)\right]

    V - v equals u - sg[v - (t - r) du/dt], the residual of MF eq. 10.
    """
    return u + expand_as(t - r, u) * du_dt.detach()


def channel_lp(
    V: Tensor, v: Tensor, p: Sequence[float] | float = 2.0, weights: Sequence[float] | None = None
) -> Tensor:
    r"""Sum over channels and positions of weight_c |V_c - v_c|^{p_c}, shape (B,).

    Only p = 2 is minimised by the conditional mean, that is by the true velocity field. Other exponents accept a bias
    in exchange for another weighting of large errors.

    Arguments:
        V: Implied velocity, shape (B, C, ...).
        v: Target velocity, shape (B, C, ...).
        p: One exponent, or one per channel.
        weights: One factor per channel; ones if None.
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


def adaptively_weighted(
    loss: Tensor, weight_loss: Tensor | None = None, *, power: float = 1.0, c: float = 0.01
) -> Tensor:
    """Per-sample losses (B,) divided by sg[(weight_loss + c)^power] (MF, eq. 22).

    The weight hides divergence, so a run is monitored by `raw_loss`.

    Arguments:
        loss: Loss to minimise, summed over elements, shape (B,).
        weight_loss: Loss that determines the weight, shape (B,); `loss` if None.
        power: Exponent of the weight.
        c: Offset of the weight.
    """
    return loss / ((loss if weight_loss is None else weight_loss).detach() + c) ** power


def raw_loss(V: Tensor, v: Tensor) -> Tensor:
    """Mean squared error per element, without gradient, shape (B,)."""
    return ((V - v) ** 2).flatten(1).mean(1).detach()


def uniform_times(nfe: int) -> list[float]:
    """Times 1, ..., 0 of `nfe` equal steps."""
    if nfe < 1:
        raise ValueError(f"a sample needs at least one network evaluation; got nfe={nfe}")
    return [1 - i / nfe for i in range(nfe + 1)]


@torch.no_grad()
def sample(u: MeanVelocity, z: Tensor, times: Sequence[float] = (1.0, 0.0)) -> Tensor:
    """Follow u from noise z at times[0] down to times[-1], one network evaluation per interval (MF, eq. 12)."""
    for start, end in zip(times[:-1], times[1:], strict=True):
        t, r = z.new_full(z.shape[:1], start), z.new_full(z.shape[:1], end)
        z = z - expand_as(t - r, z) * u(z, t, r)
    return z


@torch.no_grad()
def euler(u: MeanVelocity, z: Tensor, times: Sequence[float]) -> Tensor:
    """Euler steps along the instantaneous velocity u(z, t, t), the sampler of Rectified Flow."""
    return sample(lambda z, t, r: u(z, t, t), z, times)


SAMPLERS: dict[str, Callable[..., Tensor]] = {"meanflow": sample, "euler": euler}  # one evaluation per interval
