"""Neural ODE of growth in a partitioned state s = [y, location, shape, residual]; interface f(t, s).

    dy/dt = exp(alpha + u_a) (k + u_k - y) + 0.01 h(s)        Gompertz growth of y = ln(V + 1) and a network
    dc/dt = 0.01 MLP([y, c]),  dm/dt = 0.01 MLP([y, m])       location and shape
    dr/dt = 0                                                 residual: frozen

Each sample has its own horizon: with tau in [0, 1], ds/dtau = months f(s). Effects (u_a, u_k), start time and horizon
are constant components of the integrated state, so that one batch has many horizons and gradients reach them through
the adjoint as well.

References:
    Neural ordinary differential equations (Chen et al., 2018), arXiv:1806.07366
    How to train your neural ODE: the world of Jacobian and kinetic regularization (Finlay et al., 2020),
    arXiv:2002.02798
"""

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jvp

from neuromf.core.seeds import generator
from neuromf.growth.gompertz import velocity

logger = logging.getLogger(__name__)

SCALE = 0.01  # of the networks, per month
HIDDEN = 32
EXTRA = 4  # u_a, u_k, start time and months behind the state
SOLVERS: tuple[dict[str, Any], ...] = (  # each is tried if the one before fails
    {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4},  # 1e-3 leaves errors of 1e-3 after 60 months
    {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6},
    {"method": "rk4", "options": {"step_size": 0.05}},
)
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(5))
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2  # Gauss-Legendre quadrature on [0, 1]


class StateWidths(NamedTuple):
    """Widths of the parts of a state behind y."""

    loc: int = 0
    shape: int = 0
    residual: int = 0

    @property
    def width(self) -> int:
        """Dimensions of a state."""
        return 1 + sum(self)


def _network(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, n_out)).double()


class GrowthField(nn.Module):
    """f(t, s): derivative of a state per month, float64.

    Arguments:
        widths: Parts of the state.
        mean, sd: Moments of training states, shape (d,); networks see standardised states.
        physics: Gompertz term of y.
        network: Networks of y, location and shape.
        time_input: Networks also see t, in years from the first visit.
        seed: Seed of the weights.
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self, widths: StateWidths, mean: Tensor, sd: Tensor, *, physics: bool = True, network: bool = True,
        time_input: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.widths, self.physics, self.time_input = widths, physics, time_input
        self.register_buffer("mean", mean.double())
        self.register_buffer("sd", sd.double())
        self.log_rate = nn.Parameter(torch.tensor(-4.0, dtype=torch.float64))
        self.capacity = nn.Parameter(torch.tensor(10.0, dtype=torch.float64))
        self.networks = nn.ModuleDict()
        if network:
            self._add_networks(seed)

    def _add_networks(self, seed: int) -> None:
        loc, shape, _ = self.widths
        sizes = {"y": (self.widths.width, 1), "loc": (1 + loc, loc), "shape": (1 + shape, shape)}
        with torch.random.fork_rng():
            torch.manual_seed(generator("growth field", seed).initial_seed())
            for name, (n_in, n_out) in sizes.items():
                if n_out:
                    self.networks[name] = _network(n_in + self.time_input, n_out)

    def forward(self, t: Tensor, s: Tensor, effects: Tensor | None = None) -> Tensor:
        """ds/dt (B, d).

        Arguments:
            t: Months from the first visit, shape (B,) or scalar.
            s: States, shape (B, d).
            effects: u_a and u_k, shape (B, 2); None: 0.
        """
        loc, shape, residual = self.widths
        z = (s - self.mean) / self.sd
        years = (t / 12 * torch.ones_like(s[:, 0]))[:, None] if self.time_input else s[:, :0]
        y, c, m, _ = torch.split(z, [1, loc, shape, residual], 1)
        rate = self._network_rate("y", [z, years], 1)
        if self.physics:
            u = s.new_zeros(1, 2) if effects is None else effects
            rate = rate + velocity(s[:, 0], self.log_rate + u[:, 0], self.capacity + u[:, 1])[:, None]
        others = [self._network_rate(name, [y, part, years], part.shape[1])
                  for name, part in (("loc", c), ("shape", m)) if part.shape[1]]  # fmt: skip
        return torch.cat([rate, *others, torch.zeros_like(s[:, :residual])], 1)

    def _network_rate(self, name: str, inputs: list[Tensor], width: int) -> Tensor:
        if name not in self.networks:
            return inputs[0].new_zeros(len(inputs[0]), width)
        return SCALE * self.networks[name](torch.cat(inputs, 1))


class UnitTime(nn.Module):
    """The field of the augmented state [s, u_a, u_k, start time, months] over tau in [0, 1]."""

    def __init__(self, field: GrowthField) -> None:
        super().__init__()
        self.field = field

    def forward(self, tau: Tensor, augmented: Tensor) -> Tensor:
        s, effects, t, months = augmented.split([augmented.shape[1] - EXTRA, 2, 1, 1], 1)
        rate = months * self.field((t + tau * months)[:, 0], s, effects)
        return torch.cat([rate, torch.zeros_like(augmented[:, -EXTRA:])], 1)


def solve(
    field: GrowthField, start: Tensor, months: Tensor, *, effects: Tensor | None = None, t: Tensor | None = None,
    adjoint: bool = False, at: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """States after `months`, one horizon per sample.

    Arguments:
        start: States, shape (B, d).
        months: Horizons, shape (B,).
        effects: u_a and u_k, shape (B, 2).
        t: Months from the first visit to the start, shape (B,); only a field with time input depends on it.
        adjoint: Gradients by the adjoint ODE: constant memory, more time.
        at: Fractions of the horizon, increasing in (0, 1]; None: the end alone.

    Returns:
        Shape (B, d), or (len(at), B, d).

    Raises:
        FloatingPointError: If no solver gives finite states.
    """
    extra = [torch.zeros_like(start[:, :1].expand(-1, 2)) if effects is None else effects]
    extra += [(torch.zeros_like(months) if t is None else t)[:, None], months[:, None]]
    times = torch.cat([torch.zeros(1).double(), torch.ones(1).double() if at is None else at])
    states = _integrate(UnitTime(field), torch.cat([start, *extra], 1), times, adjoint)[1:, :, : start.shape[1]]
    return states[0] if at is None else states


def _integrate(function: UnitTime, start: Tensor, times: Tensor, adjoint: bool) -> Tensor:
    try:
        from torchdiffeq import odeint, odeint_adjoint
    except ImportError:
        raise ImportError("the neural ODE needs torchdiffeq: pip install 'neuromf[growth]'") from None
    for settings in SOLVERS:
        try:
            states = (odeint_adjoint if adjoint else odeint)(function, start, times, **settings)
        except AssertionError as error:  # "underflow in dt" or "non-finite values in state"
            logger.warning("%s failed (%s)", settings["method"], error)
            continue
        if torch.isfinite(states).all():
            return states
    raise FloatingPointError("states of the growth ODE are not finite with any solver: lower the learning rate")


def jerk(field: GrowthField, states: Tensor, months: Tensor, effects: Tensor | None, t: Tensor) -> Tensor:
    """Integral over the horizon of the squared norm of d/dt f(t, s(t)), mean over samples.

    The derivative along the trajectory is a Jacobian-vector product with (1, f).

    Arguments:
        states: States at the quadrature nodes `NODES`, shape (5, B, d).
        months, effects, t: As in `solve`.
    """
    n = len(NODES)
    now = (t + NODES[:, None] * months).flatten()
    s, u = states.flatten(0, 1), None if effects is None else effects.repeat(n, 1)
    second = jvp(lambda a, b: field(a, b, u), (now, s), (torch.ones_like(now), field(now, s, u)))[1]
    squared = second.square().sum(1).view(n, -1)
    return ((WEIGHTS @ squared) * months).mean()
