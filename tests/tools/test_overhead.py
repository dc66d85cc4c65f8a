"""Work, start and waiting of a study, computed from benchmarks and logs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import overhead

ROOT = Path(__file__).parents[2]
END = 1_800_000_000


def job(results, stem, *, ended, seconds, log):
    """Write benchmark and log of a job of `seconds` that ended `ended` seconds after END."""
    for folder, suffix, text in (
        ("benchmarks", ".tsv", f"s\th:m:s\tmax_rss\n{seconds}\t-\t10\n"),
        ("logs", ".log", log),
    ):
        path = (results / folder / stem).with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (0, END + ended))


@pytest.fixture
def results(tmp_path):
    """Two cores for 20 s: one job on both for 10 s, then two parallel jobs of 8 s and 4 s."""
    job(tmp_path, "reference", ended=10, seconds=10, log="INFO measuring\nINFO     worked 9.00 s on 2 cores\n")
    job(
        tmp_path,
        "sample/meanflow-1",
        ended=20,
        seconds=8,
        log="INFO     worked 1.0 s on 1 core\nworked 6.5 s on 1 core\n",
    )
    job(tmp_path, "partial/dashboard/meanflow", ended=19, seconds=4, log="worked 3.5 s on 1 core\n")
    return tmp_path


def test_fractions_of_work_start_and_waiting(results, capsys):
    overhead.main([str(results), "--cores", "2"])
    line = "3 jobs in 0.3 minutes on 2 cores: work 70.0%, start and end of jobs 10.0%, waiting 20.0%\n"
    assert capsys.readouterr().out == line


def test_incomplete_logs_and_missing_benchmarks_are_named(results, tmp_path):
    (results / "logs" / "reference.log").write_text("killed\n")
    with pytest.raises(SystemExit, match="reference.log has no line 'worked ... s on ... cores'; run the study again"):
        overhead.work_by_job(results)
    with pytest.raises(SystemExit, match="no benchmarks in .*nothing.benchmarks; run the study first"):
        overhead.work_by_job(tmp_path / "nothing")


def test_the_last_line_of_a_log_is_the_work(tmp_path):
    (tmp_path / "measured.csv").write_text("run,set,nfe,metric,features,n,value,low,high\n,test,,kid,e,4,1,,\n")
    script = [sys.executable, "-m", "workflow_scripts.merge_metrics", "--tables", tmp_path / "measured.csv"]
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    with (tmp_path / "metrics.log").open("w") as log:
        subprocess.run([*script, "--out", tmp_path / "metrics.csv"], cwd=ROOT, env=env, stderr=log, check=True)
    *_, last = (tmp_path / "metrics.log").read_text().splitlines()
    ((work, cores),) = overhead.WORKED.findall(last)
    assert 0 <= float(work) < 60 and cores == "2"
