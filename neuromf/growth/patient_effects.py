"""Effects of patients: how far log a and k of Gompertz growth lie from those of the population, given past visits.

The posterior given one to five visits is a 31-node Gauss-Hermite mixture (`neuromf.growth.gompertz`). Effects that a
network is trained with are those of a new patient: from the visits up to the start of a forecast, never from its end,
and from a mixed-effects model that the patient was left out of. A model that has seen the patient is too certain.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuromf.growth.gompertz import GompertzMixedEffects
from neuromf.growth.protocols import Case, Trajectory, split_folds

N_FOLDS = 5  # of cross-fitting


class Effects(NamedTuple):
    """Posterior of N forecasts given the visits before."""

    u: Tensor  # effects on log a and k, (N, 2)
    y: Tensor  # y without noise at the last observed visit, (N,)
    variance: Tensor  # of measured y at the time of the forecast, (N,)


def effects_of(
    model: GompertzMixedEffects, cases: Sequence[Case], population: GompertzMixedEffects | None = None
) -> Effects:
    """Posterior effects of the patients of cases, relative to the values of `population`, by default the model."""
    posterior = model.posterior([case.past for case in cases])
    last = torch.tensor([case.past.t[-1] for case in cases], dtype=torch.float64)
    mean = (population or model).mean
    u = posterior.moments()[0] - torch.stack([mean[0], mean[2]])
    return Effects(u, posterior.forecast(last)[0], model.forecast(cases)[1])


class EffectBank:
    """Effects of all forward pairs of training patients, in the order of `pair_cases`, by cross-fitting.

    Arguments:
        model: Model fitted on the same patients; each fold is left out of a refit of it.
        patients: Training patients.
    """

    def __init__(self, model: GompertzMixedEffects, patients: Sequence[Trajectory]) -> None:
        self.patients = frozenset(p.patient for p in patients)
        check_held_out(model.patients, model.patients - self.patients)
        parts: list[Effects] = []
        names: list[str] = []
        for rest, fold in split_folds(patients, 0, min(N_FOLDS, len(patients))):
            if cases := pair_cases(fold):
                parts.append(effects_of(model.refit(rest), cases, model))
                names += [case.past.patient for case in cases]
        order = torch.from_numpy(np.argsort(names, kind="stable"))
        self.effects = Effects(*(torch.cat(column)[order] for column in zip(*parts, strict=True)))


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
