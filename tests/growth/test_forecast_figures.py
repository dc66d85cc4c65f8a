"""Figures of forecasts: drawn from tables alone, with provenance and the statement about their data."""

import numpy as np
import pandas as pd
import pytest
from growth.figure_helpers import check_figure
from growth.forecast_helpers import simulated

from neuromf.figures import growth_forecast, growth_ladder
from neuromf.growth.forecast_study import simulated_study, write_study
from neuromf.growth.ladder import builders, run_fold
from neuromf.growth.neural_ode import StateWidths
from neuromf.growth.ode_models import OdeSettings

MODELS = ["M0", "M1", "M3", "M10"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("ladder")
    for name in ("gompertz", "treated"):
        size = {"n_train": 16, "n_test": 20, "seed": 0}
        simulated_study(out=root / name, growth_model=name, **size, models=MODELS, ode={"epochs": 1})
    return [root / "gompertz", root / "treated"]


def test_G71_figure_f4_is_drawn_from_tables_and_states_that_volumes_are_simulated(folders, tmp_path):
    growth_forecast.render(folders=folders, out=tmp_path / "fig_4", simulated="Simulated volumes", study="test")
    facts = check_figure(tmp_path / "fig_4", "Simulated volumes")
    assert facts["verdicts"].keys() == {"gompertz", "treated"}


def test_G71_patients_of_figure_f4_have_different_growth(folders):
    forecasts = pd.read_csv(folders[0] / "forecasts.csv")
    chosen = growth_forecast.choose_patients(forecasts)
    assert len(set(chosen)) == 3
    rows = forecasts[(forecasts["model"] == "M1") & (forecasts["protocol"] == "all_from_first")]
    growth = rows.groupby("patient").last().eval("actual - mean")
    assert np.all(np.diff(growth[chosen]) > 0)


def test_G71_figure_f6_is_drawn_from_tables_and_names_its_data(tmp_path):
    patients = simulated(30)
    models = {name: builders(StateWidths(), OdeSettings(epochs=1))[name] for name in ("M0", "M1", "M3")}
    forecasts, _ = run_fold(patients[:15], patients[15:], models)
    counts = {"patients": 951, "readings": 5000, "zero_volumes": 247}
    write_study(tmp_path, forecasts, {"data": "treated solid tumours, not brain", "counts": counts})
    growth_ladder.render(folder=tmp_path, out=tmp_path / "fig_6", study="test")
    facts = check_figure(tmp_path / "fig_6")
    assert facts["counts"]["zero_volumes"] == 247 and "not brain" in facts["data"]
