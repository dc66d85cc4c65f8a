"""Tables 2 and 3: arms of an ablation over seeds, with test results."""

import numpy as np
import pandas as pd
import pytest

from neuromf.figures.names import TEST
from neuromf.metrics import ablations
from neuromf.metrics.ablations import Metric
from neuromf.report.tables.arms import build
from neuromf.report.tables.style import cell
from workflow_scripts import table_arms as script

FRECHET, SIMILARITY = Metric("frechet", "encoder"), Metric("pair_ms_ssim")
METRICS = [FRECHET, SIMILARITY]


def rows(values, seconds=100.0):
    """Distances by arm, seed and NFE, a similarity of 0.7 each, and the test participants with every run."""
    table = []
    for arm, seed, nfe, value in values:
        about = {"ablation": "prediction", "arm": arm, "seed": seed, "run": f"{arm}-s{seed}", "seconds": seconds + seed}
        if value is None:
            table.append({**about, "set": "", "nfe": None, "metric": "", "features": "", "n": np.nan, "value": np.nan})
            continue
        table.append(
            {**about, "set": "samples", "nfe": nfe, "metric": "frechet", "features": "encoder", "n": 40, "value": value}
        )
        table.append(
            {**about, "set": "samples", "nfe": nfe, "metric": "pair_ms_ssim", "features": "", "n": 16, "value": 0.7}
        )
        if nfe == 1:
            table.append({**about, "set": "test", "metric": "frechet", "features": "encoder", "n": 48, "value": 5.0})
    return pd.DataFrame(table)


@pytest.fixture
def table():
    return rows([("x", 0, 1, 10.0), ("x", 1, 1, 14.0), ("x", 0, 10, 8.0), ("u", 0, 1, 30.0), ("u", 1, None, None)])


@pytest.fixture
def tests(table):
    return ablations.compare([table], distance=FRECHET, similarity=SIMILARITY, margin=0.1)


def test_rows_are_means_and_standard_deviations_over_seeds(table, tests):
    cells, _, _ = build(table, tests, METRICS)
    one = cells.set_index(["group", "name"])
    first = one.loc[("1 network evaluation", "x-prediction")]
    assert first[["frechet encoder", "frechet encoder_sd", "seeds", "n", "seconds"]].tolist() == pytest.approx(
        [12.0, np.sqrt(8.0), 2, 40, 100.5]
    )
    assert one.loc[("1 network evaluation", "u-prediction"), "frechet encoder"] == 30.0
    assert np.isnan(one.loc[("1 network evaluation", "u-prediction"), "frechet encoder_sd"])
    assert one.loc[("10 network evaluations", "x-prediction"), "seeds"] == 1


def test_missing_values_are_dashes_and_missing_arms_are_named(table, tests):
    cells, columns, notes = build(table, tests, METRICS)
    row = cells[(cells["group"] == "10 network evaluations") & (cells["name"] == "u-prediction")].iloc[0]
    printed = {column.key: cell(row, column) for column in columns}
    assert printed["frechet encoder"] == "--" and printed["seeds"] == "0"
    assert notes[-1] == "Not measured: u (seed 1)."


def test_test_participants_have_one_row_without_seeds_and_seconds(table, tests):
    cells, columns, _ = build(table, tests, METRICS)
    row = cells[cells["name"] == TEST].iloc[0]
    printed = {column.key: cell(row, column) for column in columns}
    assert printed["frechet encoder"] == "5.00" and printed["n"] == "48"
    assert printed["seeds"] == printed["seconds"] == printed["frechet encoder_sd"] == ""


def test_notes_are_test_results(table, tests):
    _, _, notes = build(table, tests, METRICS)
    assert any(note.startswith("Difference, u and x: no test") for note in notes)
    assert any(note.startswith("One step, x and NFE 10: 1.25 times") for note in notes)


def test_an_unmeasured_metric_is_refused(table, tests):
    with pytest.raises(ValueError, match="no row has the metric 'kid' of features 'encoder'"):
        build(table, tests, [Metric("kid", "encoder")])


def test_the_script_writes_the_table(table, tests, tmp_path):
    table.assign(low=np.nan, high=np.nan, peak_mb=9.0).to_csv(tmp_path / "prediction.csv", index=False)
    tests.to_csv(tmp_path / "questions.csv", index=False)
    config = '{"column_metrics": [{"metric": "frechet", "features": "encoder"}], "study": "test"}'
    files = ["--table", str(tmp_path / "prediction.csv"), "--questions", str(tmp_path / "questions.csv")]
    script.main([*files, "--config", config, "--out", str(tmp_path / "table_2")])
    text = (tmp_path / "table_2.tex").read_text()
    assert "x-prediction & 2 & 40 & 12.0 & 2.83" in text and "Not measured: u (seed 1)" in text
    assert len(pd.read_csv(tmp_path / "table_2.csv")) == 5
