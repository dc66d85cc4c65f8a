"""Effects of patients: how far log a and k of Gompertz growth lie from those of the population, given past visits.

The posterior given one to five visits is a 31-node Gauss-Hermite mixture (`neuromf.growth.gompertz`). Effects that a
network is trained with come from the visits up to the start of a forecast, as for a new patient, never from its end.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from neuromf.growth.gompertz import GompertzMixedEffects
from neuromf.growth.protocols import Case, Trajectory


class Effects(NamedTuple):
    """Posterior of N forecasts given the visits before."""

    u: Tensor  # effects on log a and k, (N, 2)
    y: Tensor  # y without noise at the last observed visit, (N,)
    variance: Tensor  # of measured y at the time of the forecast, (N,)


def effects_of(model: GompertzMixedEffects, cases: Sequence[Case]) -> Effects:
    """Posterior effects of the patients of cases, relative to the population values of a fitted model."""
    posterior = model.posterior([case.past for case in cases])
    last, t = (torch.tensor(v, dtype=torch.float64) for v in zip(*((c.past.t[-1], c.t) for c in cases), strict=True))
    _, variance = posterior.forecast(t)
    u = posterior.moments()[0] - torch.stack([model.mean[0], model.mean[2]])
    return Effects(u, posterior.forecast(last)[0], variance + model.sigma**2)


class EffectBank:
    """Effects of all forward pairs of training patients, in the order of `pair_cases`.

    Arguments:
        model: Model fitted on the same patients.
        patients: Training patients.
    """

    def __init__(self, model: GompertzMixedEffects, patients: Sequence[Trajectory]) -> None:
        self.patients = frozenset(p.patient for p in patients)
        check_held_out(model.patients, model.patients - self.patients)
        self.effects = effects_of(model, pair_cases(patients))


def pair_cases(patients: Sequence[Trajectory]) -> list[Case]:
    """Cases of all forward pairs, in the order of `neuromf.growth.forward_pairs.ForwardPairs` of sorted patients."""
    ordered = sorted(patients, key=lambda p: p.patient)
    pairs = ((p, i, j) for p in ordered for i, j in combinations(range(len(p.t)), 2))
    return [Case(p.first(i + 1), float(p.t[j]), float(p.y[j])) for p, i, j in pairs]


def check_held_out(fitted: Iterable[str], held_out: Iterable[str]) -> None:
    """Raise ValueError if a test patient is among those that a model or a bank was fitted on."""
    if leaked := sorted(set(fitted) & set(held_out)):
        raise ValueError(f"{len(leaked)} test patients were in the fit, the first is {leaked[0]}: split by patient")


def growth_parameters(model: GompertzMixedEffects, patients: Sequence[Trajectory]) -> dict[str, dict[str, float]]:
    """Posterior of log a (per month) and k by patient, given all visits: means and standard deviations."""
    mean, sd = model.posterior(patients).moments()
    names = ("log_a", "k")
    return {
        p.patient: {**{n: float(v) for n, v in zip(names, row, strict=True)},
                    **{f"{n}_sd": float(v) for n, v in zip(names, spread, strict=True)}}
        for p, row, spread in zip(patients, mean, sd, strict=True)
    }  # fmt: skip
