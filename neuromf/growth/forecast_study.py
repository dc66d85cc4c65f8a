"""Forecast studies of volumes: simulated ones, and real ones of other tumours.

Each study fits the ladder on training patients, forecasts test patients, and writes forecasts.csv, scores.csv and
study.json (verdicts with interval and p, gain of every rung, conformal coverage, what the data are).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from neuromf.core.files import save_tensors, write_json
from neuromf.data.lesion_volumes import read_lesion_volumes
from neuromf.growth import conformal
from neuromf.growth.comparators import Comparator
from neuromf.growth.gaussian_process import LinearMixedEffects
from neuromf.growth.gompertz import GompertzMixedEffects
from neuromf.growth.ladder import builders, compare, decompose, forecast_cases, run_fold, score_models
from neuromf.growth.neural_ode import StateWidths
from neuromf.growth.ode_models import NeuralODE, OdeSettings
from neuromf.growth.patient_effects import growth_parameters
from neuromf.growth.protocols import PROTOCOLS, Trajectory, last_from_rest, split_folds, trajectories
from neuromf.growth.risk import stratify
from neuromf.metrics.forecast import gaussian_interval
from neuromf.simulation.tumour_volumes import simulate_volumes
from neuromf.simulation.tumours import VOLUME_NOISE

logger = logging.getLogger(__name__)

QUESTIONS = (  # model and the simpler one
    *(("M3", "M1"), ("M4r", "M3"), ("M4", "M4r"), ("M9", "M1"), ("M10", "M8")),
    *(("M10", "M4r"), ("M10", "M4"), ("M11", "M4r"), ("M11", "M4"), ("M11", "M10")),
)


def simulated_study(
    *, out: Path, growth_model: str, n_train: int, n_test: int, seed: int, models: Sequence[str], ode: Mapping[str, Any]
) -> pd.DataFrame:
    """Ladder on simulated volumes: patients 0 to n_train - 1 train, the next n_test test; returns the scores.

    Also writes volumes.tsv (with truth), gompertz_params.json, risk.json and ode.ckpt.

    Arguments:
        out: Folder.
        growth_model: "gompertz", "logistic" or "treated".
        models: Names of `neuromf.growth.ladder.builders`.
        ode: Arguments of `OdeSettings`.
    """
    table = simulate_volumes(n_train + n_test, seed=seed, growth_model=growth_model)
    patients = trajectories(table, features=("age", "sex"))
    train, test = patients[:n_train], patients[n_train:]
    forecasts, fitted = run_fold(train, test, chosen_builders(models, StateWidths(), ode))
    forecasts = pd.concat([forecasts, oracle(table, test)], ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "volumes.tsv", sep="\t", index=False)
    facts = {"data": f"simulated volumes, {growth_model}", "n_train": n_train, "n_test": n_test, "seed": seed}
    return write_study(out, forecasts, facts | _extras(out, table, train, test, fitted))


def oracle(table: pd.DataFrame, test: Sequence[Trajectory]) -> pd.DataFrame:
    """Forecasts by the true curve, with the standard deviation of the measurement."""
    true = {(row.patient_id, row.t_months): np.log1p(row.V_true_mm3) for row in table.itertuples()}

    class Oracle(Comparator):
        name, title = "oracle", "oracle curve"

        def estimate(self, patients: Sequence[Trajectory]) -> None:
            """The truth has nothing to estimate."""

        def predict(self, cases: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
            mean = np.array([true[case.past.patient, case.t] for case in cases])
            return mean, np.full(len(mean), VOLUME_NOISE)

    return forecast_cases(Oracle(), test)


def chosen_builders(
    models: Sequence[str], widths: StateWidths, ode: Mapping[str, Any]
) -> dict[str, Callable[[], Comparator]]:
    """Builders of the named models; the latent line needs more than y."""
    known = builders(widths, OdeSettings(**ode))
    if unknown := [name for name in models if name not in known]:
        raise ValueError(f"growth.ladder.models must be among {', '.join(known)}; got {', '.join(unknown)}")
    return {name: known[name] for name in known if name in models and (name != "M7" or widths.width > 1)}


def _extras(
    out: Path, table: pd.DataFrame, train: list[Trajectory], test: list[Trajectory], fitted: Mapping[str, Comparator]
) -> dict[str, Any]:
    """Growth parameters and risk against the planted rates, conformal coverage, weights of the last ODE."""
    facts: dict[str, Any] = {"conformal": conformal_coverage(LinearMixedEffects, train, test)}
    if isinstance(model := fitted.get("M4"), GompertzMixedEffects):
        parameters, risks = growth_parameters(model, test), stratify(model, test)
        write_json(out / "gompertz_params.json", parameters)
        write_json(out / "risk.json", risks)
        facts["recovered_rates"] = recovered_rates(table, test, parameters, risks)
    if ode := [model for model in fitted.values() if isinstance(model, NeuralODE)]:
        save_tensors(ode[-1].checkpoint(), out / "ode.ckpt")
        facts["ode_loss"] = {model.name: [model.losses[0], model.losses[-1]] for model in ode}
    return facts


def recovered_rates(
    table: pd.DataFrame, test: Sequence[Trajectory], parameters: Mapping[str, Any], risks: Mapping[str, Any]
) -> dict[str, Any]:
    """Spearman correlation of planted and recovered rates by number of visits."""
    truth = table.groupby("patient_id")["a_per_month"].first()
    frame = pd.DataFrame({"n": [len(p.t) for p in test], "a": [truth[p.patient] for p in test],
                          "log_a": [parameters[p.patient]["log_a"] for p in test],
                          "risk": [risks[p.patient]["risk"] for p in test]})  # fmt: skip
    groups = {"2-3": frame[frame["n"] < 4], ">=4": frame[frame["n"] >= 4]}
    return {
        name: {"n": len(part), **{column: _rank_correlation(part["a"], part[column]) for column in ("log_a", "risk")}}
        for name, part in groups.items()
    }


def _rank_correlation(a: pd.Series, b: pd.Series) -> float | None:
    """Spearman correlation; None for fewer than three patients."""
    return float(spearmanr(a, b)[0]) if len(a) > 2 else None


def conformal_coverage(
    build: Callable[[], Comparator], train: Sequence[Trajectory], test: Sequence[Trajectory]
) -> dict[str, Any]:
    """Coverage and width of jackknife+ (CV+) and normalised intervals of a model, and the band of exact intervals."""
    cases = last_from_rest(test)
    actual = np.array([case.actual for case in cases])
    left_out = conformal.leave_out(build, train, cases)
    mean, sd = build().fit(train).predict(cases)
    intervals = {
        "jackknife+": conformal.jackknife_plus(left_out),
        "normalised": conformal.normalised(left_out, mean, sd),
        "gaussian": gaussian_interval(mean, sd),
    }
    found: dict[str, Any] = {"n": len(left_out.errors)}
    for name, (low, high) in intervals.items():
        hits = conformal.covered(actual, low, high)
        ends = conformal.observed_interval(hits, len(cases))
        found[name] = {"coverage": hits, "width": float((high - low).mean()), "interval": ends}
    return {**found, "band": conformal.coverage_band(len(left_out.errors), len(cases))}


def real_study(*, table: Path, out: Path, seed: int, models: Sequence[str], ode: Mapping[str, Any]) -> pd.DataFrame:
    """Ladder on real volumes, 10 folds by patient; returns the scores."""
    volumes, counts = read_lesion_volumes(table)
    patients = trajectories(volumes)
    build = chosen_builders(models, StateWidths(), ode)
    parts = [run_fold(train, test, build)[0] for train, test in split_folds(patients, seed)]
    out.mkdir(parents=True, exist_ok=True)
    facts = {"data": "Laleh et al. 2022, treated solid tumours, not brain", "counts": counts, "seed": seed}
    return write_study(out, pd.concat(parts, ignore_index=True), facts)


def write_study(out: Path, forecasts: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Write forecasts.csv, scores.csv and study.json; returns the scores."""
    scores = score_models(forecasts)
    known = set(forecasts["model"])
    ladder = forecasts[forecasts["model"] != "oracle"]
    verdicts = [compare(forecasts, a, b, protocol=protocol) for protocol in PROTOCOLS for a, b in QUESTIONS
                if {a, b} <= known]  # fmt: skip
    forecasts.to_csv(out / "forecasts.csv", index=False, float_format="%.6g")
    scores.to_csv(out / "scores.csv", index=False, float_format="%.6g")
    write_json(out / "study.json", {**facts, "verdicts": verdicts, "rungs": decompose(ladder)})
    for row in verdicts:
        logger.info("%(protocol)s: %(model)s over %(reference)s %(gain).3f (%(low).3f to %(high).3f), p = %(p).4f", row)
    return scores
