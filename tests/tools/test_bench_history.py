"""The benchmark history: every job once, no host names or paths."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tools import bench_history

ROOT = Path(__file__).parents[2]
COMMIT = bench_history.commit
HEADER = "s\th:m:s\tmax_rss\n"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of a study with three jobs, one of them too short to sample its memory."""
    monkeypatch.setattr(bench_history, "commit", lambda: "0123456789ab+")
    folder = tmp_path / "results"
    rows = {"vae": "8.22\t0:00:08\t528.04", "prepare/1": "10.21\t0:00:10\t505.82", "partial/fig_4": "0.4\t0:00:00\t-"}
    for number, (name, row) in enumerate(rows.items()):
        path = folder / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{HEADER}{row}\n")
        os.utime(path, (0, 1_800_000_000 + number))
    (folder / "gates").mkdir()
    (folder / "gates" / "phase_0.json").write_text(json.dumps({"study": "heads"}))
    return folder


def history(results, path):
    bench_history.main([str(results), str(path)])
    return pd.read_csv(path, keep_default_na=False)


def test_every_job_has_a_row(results, tmp_path):
    table = history(results, tmp_path / "history.csv")
    assert list(table.columns) == bench_history.COLUMNS
    what = table[["date", "study", "rule", "job", "seconds", "max_rss_mb"]].astype(str).to_numpy().tolist()
    assert what == [
        ["2027-01-15T08:00:00Z", "heads", "vae", "", "8.22", "528.04"],
        ["2027-01-15T08:00:01Z", "heads", "prepare", "1", "10.21", "505.82"],
        ["2027-01-15T08:00:02Z", "heads", "fig_4 (partial)", "", "0.4", ""],
    ]
    assert set(table["commit"]) == {"0123456789ab+"}
    assert set(table["cores"]) == {os.cpu_count()} and table["machine"].str.len().min() > 0


def test_a_job_is_added_once_and_later_runs_are_appended(results, tmp_path):
    first = history(results, tmp_path / "history.csv")
    text = (tmp_path / "history.csv").read_text()
    assert history(results, tmp_path / "history.csv").equals(first)
    again = results / "benchmarks" / "vae.tsv"
    again.write_text(f"{HEADER}9.5\t0:00:09\t530.5\n")
    os.utime(again, (0, 1_800_000_100))
    assert history(results, tmp_path / "history.csv")["seconds"].tolist() == [8.22, 10.21, 0.4, 9.5]
    assert (tmp_path / "history.csv").read_text().startswith(text)


def test_host_name_and_paths_are_not_written(results, tmp_path):
    history(results, tmp_path / "history.csv")
    text = (tmp_path / "history.csv").read_text()
    assert str(tmp_path) not in text and os.uname().nodename not in text


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_commit_is_the_checked_out_one():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commit = COMMIT()
    assert len(commit.rstrip("+")) == 12 and head.startswith(commit.rstrip("+"))


def test_missing_inputs_are_named(results, tmp_path):
    (results / "gates" / "phase_0.json").unlink()
    with pytest.raises(SystemExit, match="no gates in .*gates; run the study first"):
        bench_history.main([str(results), str(tmp_path / "history.csv")])
    with pytest.raises(SystemExit, match="no benchmarks in .*nowhere/benchmarks; run the study first"):
        bench_history.rows(tmp_path / "nowhere", "0")
