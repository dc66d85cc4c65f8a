"""Every number in the paper, tables and page of a finished study equals its source in the result files.

NEUROMF_STUDY names the working directory of the study; the default is that of `make tiny`.
"""

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuromf.metrics.table import read_rows, select_set

RESULTS = Path(os.environ.get("NEUROMF_STUDY", Path(__file__).parents[2] / "work/tiny")) / "results"
pytestmark = pytest.mark.skipif(
    not (RESULTS / "report.html").exists(), reason="no finished study: make tiny, or set NEUROMF_STUDY"
)
SAME = {"rtol": 1e-5, "atol": 0}


def table(name):
    return read_rows(RESULTS / name)


def at(found, path):
    """The value at a dotted path of nested dicts and lists."""
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


# --- the paper ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers():
    return json.loads((RESULTS / "paper/numbers.json").read_text())["numbers"]


def test_every_metric_of_the_paper_is_one_row_of_the_metrics(numbers):
    metrics, named = table("metrics/metrics.csv"), ["run", "set", "metric", "features"]
    cited = [one for one in numbers if one["source"] == "metrics/metrics.csv" and set(named) <= set(one["key"])]
    assert len(cited) > 10
    for one in cited:
        row = metrics[(metrics[named] == pd.Series({name: one["key"][name] for name in named})).all(axis=1)]
        row = row[row["nfe"].isna() if one["key"]["nfe"] is None else (row["nfe"] == one["key"]["nfe"])]
        assert len(row) == 1, one
        np.testing.assert_allclose(one["value"], row[one["key"].get("column", "value")].item(), **SAME)


def test_every_other_number_of_the_paper_equals_its_source(numbers):
    scans = pd.read_csv(RESULTS / "cohort/qc.tsv", sep="\t")
    for one in numbers:
        source, key = one["source"], one["key"]
        if source == "cohort/qc.tsv":
            assert one["value"] == (scans[["split", "status"]] == key["split"]).any(axis=1).sum()
        elif source.endswith("card.json") or source == "vae/validation.json":
            stored = at(json.loads((RESULTS / source).read_text()), key["path"])
            assert one["value"] == (stored if isinstance(stored, str) else pytest.approx(stored, rel=1e-5))
        elif source.startswith("gates/") and "id" in key:
            rows = json.loads((RESULTS / source).read_text())["rows"]
            assert [row["measured"] for row in rows if row["id"] == key["id"]] == [one["value"]]


def test_every_number_is_printed_as_it_was_looked_up(numbers):
    text = (RESULTS / "paper/paper.tex").read_text()
    for one in numbers:
        if one["source"] == "metrics/metrics.csv":
            assert one["text"] in text, one


# --- tables ------------------------------------------------------------------------------------------


def measured(column):
    """Metric and features of a table column."""
    metric, _, features = column.partition(" ")
    return {"ms_ssim": "pair_ms_ssim"}.get(metric, metric), features


def test_cells_of_table_1_are_rows_of_the_metrics():
    cells, metrics, seen = table("tables/table_1.csv"), table("metrics/metrics.csv"), 0
    own = cells[~cells["quoted"].astype(bool)]
    for column in [name.removesuffix("_n") for name in cells if name.endswith("_n")]:
        metric, features = measured(column)
        rows = metrics[(metrics["metric"] == metric) & (metrics["features"] == features)]
        for _, cell in own[own[column].notna()].iterrows():
            same = np.isclose(rows["value"], cell[column], **SAME) & (rows["n"] == cell[f"{column}_n"])
            assert same.any(), (column, cell["name"])
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("name, ablation", [("table_2", "prediction"), ("table_3", "lp")])
def test_cells_of_tables_2_and_3_are_means_over_seeds(name, ablation):
    if not (RESULTS / f"tables/{name}.csv").exists():
        pytest.skip(f"this study has no {name}")
    cells, rows = table(f"tables/{name}.csv"), table(f"ablations/{ablation}.csv")
    arms = cells[cells["group"].str.contains("evaluation")]
    means = rows.groupby(["arm", "set", "nfe", "metric", "features"], dropna=False)["value"].mean().reset_index()
    for column in [column.removesuffix("_sd") for column in cells if column.endswith("_sd")]:
        metric, features = measured(column)
        known = means[(means["metric"] == metric) & (means["features"] == features)]["value"]
        assert all(np.isclose(known, value, **SAME).any() for value in arms[column].dropna()), column


# --- the page ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The numbers of a page by their source, and its text."""

    def __init__(self):
        super().__init__()
        self.data, self.text = {}, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "data" and "data-from" in attributes:
            self.data[attributes["data-from"]] = float(attributes["value"])

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page():
    read = Page()
    read.feed((RESULTS / "report.html").read_text())
    return read


def test_numbers_of_the_page_equal_their_sources(page):
    metrics = table("metrics/metrics.csv")
    seen = 0
    for source, value in page.data.items():
        place, *key = source.split()
        if place == "metrics":
            metric, which, column = key
            rows = select_set(metrics[metrics["metric"] == metric], int(which) if which.isdigit() else which)
            assert np.isclose(rows[column], value, **SAME).any(), source
            seen += 1
    assert seen


def test_tables_of_the_page_hold_the_cells_of_the_paper(page):
    text = " ".join(" ".join(page.text).split())
    for path in sorted((RESULTS / "tables").glob("table_*.csv")):
        for name in table(f"tables/{path.name}")["name"].astype(str):
            assert name in text, (path.name, name)
