"""Neural ODE as a comparator: training on forward pairs, and forecasts of y with standard deviations."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromf.core.seeds import generator
from neuromf.growth.comparators import Comparator
from neuromf.growth.forward_pairs import ForwardPairs
from neuromf.growth.gompertz import GompertzMixedEffects, Posterior, pooled_growth
from neuromf.growth.neural_ode import NODES, GrowthField, StateWidths, jerk, solve
from neuromf.growth.patient_effects import EffectBank, Effects, effects_of
from neuromf.growth.protocols import Case, Trajectory

logger = logging.getLogger(__name__)

NEGLIGIBLE = 1e-8  # weight of a node; fast growth at such nodes makes the ODE stiff
BESIDE_POSTERIOR = -7.0  # log-variance that training starts from beside that of a posterior: 3 % in y
NOISE_LR = 10.0  # learning rate of log-variances over that of the field: they move by up to 8 in 800 steps


@dataclass(frozen=True)
class OdeSettings:
    """Training of a neural ODE."""

    epochs: int = 200
    lr: float = 1e-3
    batch: int = 128
    weight_decay: float = 0.01
    smoothness: float = 0.01  # weight of the jerk
    jitter: float = 0.01  # standard deviation of noise on start states
    adjoint: bool = False
    time_input: bool = False
    seed: int = 0


class ForecastNoise(nn.Module):
    """Variance of y after a horizon: exp(a) + exp(b) years^2, and that of the patient's posterior.

    The posterior has the noise of a measurement. A factor in place of the sum could shrink it: errors on training pairs
    are smaller than those on other patients.
    """

    def __init__(self, start: float = -4.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((2,), start, dtype=torch.float64))  # a and b

    def forward(self, months: Tensor, posterior: Tensor | None) -> Tensor:
        """Variances (B,)."""
        own = self.log[0].exp() + self.log[1].exp() * (months / 12).square()
        return own if posterior is None else own + posterior


class NeuralODE(Comparator):
    """Physics, network, or both, in the state of the trajectories, or y alone if they have none.

    Arguments:
        physics, network: Terms of the field.
        effects: Effects of patients, from the posterior of a Gompertz mixed-effects model of training patients.
        widths: Parts of the states; y alone by default.
        settings: See `OdeSettings`.
    """

    def __init__(
        self, *, physics: bool = True, network: bool = True, effects: bool = False,
        widths: StateWidths | None = None, settings: OdeSettings | None = None,
    ) -> None:  # fmt: skip
        self.physics, self.network, self.with_effects = physics, network, effects
        self.name, self.title = {
            (True, False): ("M8", "ODE physics"), (False, True): ("M9", "ODE network"), (True, True): ("M10", "ODE"),
        }[physics, network]  # fmt: skip
        if effects:
            self.name, self.title = "M11", "ODE, effects"
        self.widths, self.settings = widths or StateWidths(), settings or OdeSettings()
        self.losses: list[float] = []
        self.effects: GompertzMixedEffects | None = None

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        ordered = sorted(patients, key=lambda p: p.patient)
        states = np.concatenate([states_of(p) for p in ordered])
        times = np.concatenate([p.t for p in ordered])
        names = np.concatenate([[p.patient] * len(p.t) for p in ordered])
        pairs = ForwardPairs(states, times, names).tensors()
        if self.with_effects:
            self.effects = GompertzMixedEffects(amortise=True)
            self.effects.fit(ordered)
            self._use(pairs, EffectBank(self.effects, ordered).effects)
        moments = torch.from_numpy(states.mean(0)), torch.from_numpy(np.maximum(states.std(0), 1e-6))
        self.field = GrowthField(self.widths, *moments, physics=self.physics, network=self.network,
                                 time_input=self.settings.time_input, seed=self.settings.seed)  # fmt: skip
        self.noise = ForecastNoise(BESIDE_POSTERIOR if self.with_effects else -4.0)
        self._start_at_population(pairs)
        self.losses = train(self.field, self.noise, pairs, self.settings)

    def _use(self, pairs: dict[str, Tensor], effects: Effects) -> None:
        """Effects, filtered y of the start and posterior variance of pairs."""
        pairs["start"] = torch.cat([effects.y[:, None], pairs["start"][:, 1:]], 1)
        pairs |= {"effects": effects.u, "variance": effects.variance}

    def _start_at_population(self, pairs: dict[str, Tensor]) -> None:
        """Rate and capacity to begin with: those of the mixed-effects model, or least squares of the closed form."""
        if self.effects is not None:
            log_rate, capacity = float(self.effects.mean[0]), float(self.effects.mean[2])
        else:
            zero, start, end = torch.zeros_like(pairs["months"]), pairs["start"][:, 0], pairs["end"][:, 0]
            visits = zip(zip(zero, start, strict=True), zip(pairs["months"], end, strict=True), strict=True)
            log_rate, capacity = pooled_growth(list(visits))
        with torch.no_grad():
            self.field.log_rate.fill_(log_rate)
            self.field.capacity.fill_(capacity)

    @torch.no_grad()
    def forecast(self, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        """States (N, d) at the times of cases, and variance of y (N,)."""
        start = torch.from_numpy(np.stack([states_of(case.past)[-1] for case in cases]))
        months = torch.tensor([case.horizon for case in cases], dtype=torch.float64)
        t = torch.tensor([case.past.t[-1] for case in cases], dtype=torch.float64)
        if self.effects is None:
            return solve(self.field, start, months, t=t), self.noise(months, None)
        states = self._over_posterior(start, months, t, self.effects.posterior([case.past for case in cases]))
        return states, self.noise(months, effects_of(self.effects, cases).variance)

    def _over_posterior(self, start: Tensor, months: Tensor, t: Tensor, posterior: Posterior) -> Tensor:
        """Mean over the nodes of the posterior of the states that its effects lead to."""
        population = torch.stack([self.effects.mean[0], self.effects.mean[2]]) if self.effects else 0
        u = torch.stack([posterior.log_rate, posterior.mean[..., 1]], -1) - population
        begin = start[:, None].repeat(1, u.shape[1], 1)
        begin[..., 0] = posterior.curve(t)[0]
        used = posterior.weights > NEGLIGIBLE  # (N, n)
        case = used.nonzero()[:, 0]
        states = torch.zeros_like(begin)
        states[used] = solve(self.field, begin[used], months[case], effects=u[used], t=t[case])
        return (posterior.weights[..., None] * states).sum(1)

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        states, variance = self.forecast(cases)
        return states[:, 0].numpy(), variance.sqrt().numpy()

    def checkpoint(self) -> dict[str, Any]:
        """Weights of field and noise."""
        return {"field": self.field.state_dict(), "noise": self.noise.state_dict()}


def states_of(patient: Trajectory) -> NDArray:
    """States of the visits of a patient (n, d); y alone if there are no others."""
    return patient.y[:, None] if patient.states is None else patient.states


def pair_loss(field: GrowthField, noise: ForecastNoise, pairs: dict[str, Tensor], settings: OdeSettings) -> Tensor:
    """Gaussian NLL of y, squared error of location and shape in standard deviations, and the jerk; mean over pairs."""
    months, effects, t = pairs["months"], pairs.get("effects"), pairs["t"]
    at = torch.cat([NODES, torch.ones(1).double()])
    path = solve(field, pairs["start"], months, effects=effects, t=t, adjoint=settings.adjoint, at=at)
    variance = noise(months, pairs.get("variance"))
    nll = 0.5 * ((path[-1, :, 0] - pairs["end"][:, 0]).square() / variance + variance.log())
    active = slice(1, 1 + field.widths.loc + field.widths.shape)
    others = ((path[-1] - pairs["end"]) / field.sd)[:, active].square().sum(1)
    return (nll + others).mean() + settings.smoothness * jerk(field, path[:-1], months, effects, t)


def train(field: GrowthField, noise: ForecastNoise, pairs: dict[str, Tensor], settings: OdeSettings) -> list[float]:
    """Train a field and its noise on forward pairs; returns the mean loss of each epoch.

    Raises:
        FloatingPointError: If a loss is not finite, with epoch and batch.
    """
    free = [field.log_rate, field.capacity]  # weight decay would pull k towards 0
    groups: list[dict[str, Any]] = [
        {"params": free, "weight_decay": 0.0},
        {"params": [*noise.parameters()], "weight_decay": 0.0, "lr": NOISE_LR * settings.lr},
        {"params": [*field.networks.parameters()]},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    losses, n = [], len(pairs["months"])
    for epoch in range(settings.epochs):
        random = generator("growth ode", settings.seed, epoch)
        jitter = settings.jitter * torch.randn(pairs["start"].shape, generator=random, dtype=torch.float64)
        moved = {**pairs, "start": pairs["start"] + jitter * field.sd}
        total = 0.0
        for k, rows in enumerate(torch.randperm(n, generator=random).split(settings.batch)):
            loss = pair_loss(field, noise, {name: value[rows] for name, value in moved.items()}, settings)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss of the growth ODE is {loss.item()} in epoch {epoch}, batch {k}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(rows) / n
        losses.append(total)
    logger.info("neural ODE: %d pairs, loss %.3f to %.3f", n, losses[0], losses[-1])
    return losses
