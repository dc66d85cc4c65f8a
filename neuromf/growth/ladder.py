"""The ladder: models M0 to M11 in one runner, from the population mean to the neural ODE with effects of patients.

Each rung must beat the one before it on patients that no fit has seen.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from neuromf.growth.comparators import Comparator, LastObservation, PatientLine, PopulationMean
from neuromf.growth.gaussian_process import HierarchicalProcess, LinearMixedEffects, ScalarProcess
from neuromf.growth.gompertz import GompertzMixedEffects, ReducedGompertz
from neuromf.growth.neural_ode import StateWidths
from neuromf.growth.ode_models import NeuralODE, OdeSettings, states_of
from neuromf.growth.patient_effects import check_held_out
from neuromf.growth.protocols import PROTOCOLS, Case, Trajectory, horizon_bin, last_from_rest
from neuromf.metrics.forecast import decide, gaussian_interval, score, squared_errors

logger = logging.getLogger(__name__)

LOCF = LastObservation.name


class LatentLine(Comparator):
    """Linear extrapolation in the state: each dimension has random intercept and slope, and ridge gives y.

    References:
        MRExtrap: linear progression in autoencoder latents (arXiv:2508.19482)
    """

    name, title = "M7", "latent line"

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        width = states_of(patients[0]).shape[1]
        self.dimensions = [LinearMixedEffects() for _ in range(width)]
        for k, model in enumerate(self.dimensions):
            model.fit([_dimension(p, k) for p in patients])
        states, y = np.concatenate([states_of(p) for p in patients]), np.concatenate([p.y for p in patients])
        self.center, self.spread = states.mean(0), np.maximum(states.std(0), 1e-9)
        self.readout = RidgeCV(np.logspace(-4, 4, 17)).fit((states - self.center) / self.spread, y)
        cases = last_from_rest(patients)
        errors = np.array([case.actual for case in cases]) - self._mean(cases)
        self.sd = float(np.sqrt((errors**2).mean()))

    def _mean(self, cases: Sequence[Case]) -> NDArray:
        moved = [[Case(_dimension(case.past, k), case.t, case.actual) for case in cases]
                 for k in range(len(self.dimensions))]  # fmt: skip
        states = np.stack([m.predict(c)[0] for m, c in zip(self.dimensions, moved, strict=True)], 1)
        return self.readout.predict((states - self.center) / self.spread)

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        return self._mean(cases), np.full(len(cases), self.sd)


def _dimension(patient: Trajectory, k: int) -> Trajectory:
    """The trajectory of one dimension of the state in place of y."""
    return Trajectory(patient.patient, patient.t, states_of(patient)[:, k])


def builders(widths: StateWidths, settings: OdeSettings) -> dict[str, Callable[[], Comparator]]:
    """Functions that make the unfitted models of the ladder, by name and in order."""
    ode: dict[str, Any] = {"widths": widths, "settings": settings}
    made: dict[str, Callable[[], Comparator]] = {
        "M0": PopulationMean,
        "M1": LastObservation,
        "M2": PatientLine,
        "M3": LinearMixedEffects,
        "M4r": ReducedGompertz,
        "M4": GompertzMixedEffects,
        "M5": ScalarProcess,
        "M6": HierarchicalProcess,
        "M7": LatentLine,
        "M8": lambda: NeuralODE(network=False, **ode),
        "M9": lambda: NeuralODE(physics=False, **ode),
        "M10": lambda: NeuralODE(**ode),
        "M11": lambda: NeuralODE(effects=True, **ode),
    }
    return made


def forecast_cases(model: Comparator, test: Sequence[Trajectory]) -> pd.DataFrame:
    """Forecasts of a fitted model for all protocols: one row per case.

    Raises:
        ValueError: If a test patient was in the fit.
    """
    check_held_out(model.patients, (p.patient for p in test))
    parts = []
    for protocol, make in PROTOCOLS.items():
        cases = make(test)
        mean, sd = model.predict(cases)
        low, high = gaussian_interval(mean, sd)
        parts.append(pd.DataFrame({
            "patient": [case.past.patient for case in cases], "protocol": protocol, "model": model.name,
            "title": model.title, "t": [case.t for case in cases], "horizon": [horizon_bin(c.horizon) for c in cases],
            "n_visits": [len(case.past.t) for case in cases], "mean": mean, "sd": sd, "lo95": low, "hi95": high,
            "actual": [case.actual for case in cases],
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def run_fold(
    train: Sequence[Trajectory], test: Sequence[Trajectory], models: Mapping[str, Callable[[], Comparator]]
) -> tuple[pd.DataFrame, dict[str, Comparator]]:
    """Fit every model on training patients and forecast test patients: rows of `forecast_cases`, and the models."""
    fitted = {}
    for name, build in models.items():
        fitted[name] = build().fit(train)
        logger.info("%s (%s) fitted on %d patients", name, fitted[name].title, len(train))
    return pd.concat([forecast_cases(model, test) for model in fitted.values()], ignore_index=True), fitted


def score_models(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Scores by protocol, horizon ("all" and bins) and model; LOCF is the reference of the skill."""
    rows = []
    for protocol, part in forecasts.groupby("protocol", sort=False):
        bins = {"all": part, **dict(list(part.groupby("horizon")))}
        for horizon, cases in bins.items():
            locf = cases[cases["model"] == LOCF]["mean"].to_numpy(float)
            for model, own in cases.groupby("model", sort=False):
                actual, mean, sd = own[["actual", "mean", "sd"]].to_numpy(float).T
                found = score(actual, mean, sd, locf, own["patient"])
                rows.append({"protocol": protocol, "horizon": horizon, "model": model,
                             "title": own["title"].iloc[0], **found})  # fmt: skip
    return pd.DataFrame(rows)


def compare(forecasts: pd.DataFrame, model: str, reference: str, *, protocol: str = "last_from_rest") -> dict[str, Any]:
    """Whether a model earns its place beside a reference, see `neuromf.metrics.forecast.decide`."""
    part = forecasts[forecasts["protocol"] == protocol]
    errors = {}
    for name in (model, reference, LOCF):
        own = part[part["model"] == name]
        errors[name] = squared_errors(own["actual"].to_numpy(float), own["mean"].to_numpy(float), own["patient"])
    found = decide(errors[model], errors[reference], errors[LOCF])
    return {"model": model, "reference": reference, "protocol": protocol, **found}


def decompose(forecasts: pd.DataFrame, *, protocol: str = "last_from_rest") -> list[dict[str, Any]]:
    """Change of R^2 and skill from each rung to the next, with the decision rule."""
    scores = score_models(forecasts[forecasts["protocol"] == protocol])
    scores = scores[scores["horizon"] == "all"].set_index("model")
    rungs = list(scores.index)
    return [
        {"from": a, "to": b, "title": scores.loc[b, "title"],
         "r2": float(scores.loc[b, "r2"] - scores.loc[a, "r2"]),
         "skill": float(scores.loc[b, "skill"] - scores.loc[a, "skill"]),
         **{name: compare(forecasts, b, a, protocol=protocol)[name] for name in ("low", "high", "p", "earned")}}
        for a, b in pairwise(rungs)
    ]  # fmt: skip
