"""Projected costs scale the measured ones."""

import json

import pandas as pd
import pytest

from neuromf.benchmarks import projection
from neuromf.data.participants import write_table
from workflow_scripts import projection as script

PLAN = {"study": "small", "scans": 1000, "trainings": 3, "steps": 400, "samples": 50, "workers": [1, 4], "versions": 2}
PLAN |= {"scans_per_shard": 100, "shape": [64, 80, 64]}


def test_hours_depend_on_jobs_and_workers():
    stage = projection.Stage(
        "encode", "scan", units=10, seconds=36.0, megabytes=5.0, peak_mb=700.0, planned=10_000, jobs=10
    )
    assert [stage.hours(n) for n in (1, 4, 10, 64)] == pytest.approx([10, 3, 1, 1])
    row = projection.projected(stage, [1, 64])
    assert row["s_per_unit"] == 3.6 and row["gb"] == 5.0 and row["hours_64"] == pytest.approx(1)
    total = projection.total([row, row])
    assert total["hours_1"] == pytest.approx(20) and total["peak_mb"] == 700


@pytest.fixture
def study(tmp_path):
    """Benchmarks and files of a study with 20 scans, 16 of them in training."""
    scans = [f"s{k}" for k in range(20)]
    split = ["train"] * 16 + ["test"] * 4
    write_table(
        pd.DataFrame({"scan": scans, "participant": scans, "split": split, "status": "accepted"}), tmp_path / "qc.tsv"
    )
    jobs = {"prepare/0": 8, "prepare/1": 12, "encode/0": 18, "encode/1": 18, "latent_statistics": 4, "reference": 10}
    jobs |= {"sample/meanflow-1": 3, "sample/meanflow-10": 5, "sample/other-1": 99, "evaluate/meanflow": 16}
    for name, seconds in jobs.items():
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"s": [seconds], "max_rss": [500 + seconds]}).to_csv(path, sep="\t", index=False)
    for name in ("volumes/0", "samples/nfe-1", "samples/nfe-10", "meanflow"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "volumes/0/s0.nii.gz").write_bytes(bytes(2_000_000))
    (tmp_path / "0.pt").write_bytes(bytes(3_600_000))
    for nfe in (1, 10):
        write_table(pd.DataFrame({"scan": ["a", "b", "c", "d"]}), tmp_path / f"samples/nfe-{nfe}/samples.tsv")
    card = {"seconds": 100, "peak_mb": 900, "device": "cpu, 2 threads", "parameters": 4_500_000}
    (tmp_path / "meanflow/card.json").write_text(json.dumps(card | {"config": {"train": {"steps": 50, "batch": 16}}}))
    return tmp_path


def make(folder):
    files = {"benchmarks": "benchmarks", "qc": "qc.tsv", "volumes": "volumes/0", "latents": "0.pt"}
    files |= {"card": "meanflow/card.json", "table": "scale.csv", "page": "scale.md"}
    argv = [part for name, path in files.items() for part in (f"--{name}", str(folder / path))]
    samples = [str(folder / f"samples/nfe-{nfe}") for nfe in (1, 10)]
    script.main([*argv, "--samples", *samples, "--config", json.dumps(PLAN)])
    return pd.read_csv(folder / "scale.csv").set_index("stage"), (folder / "scale.md").read_text()


def test_the_page_is_computed_from_benchmarks_and_files(study):
    table, page = make(study)
    assert table.loc["prepare", ["planned", "jobs", "s_per_unit", "peak_mb"]].tolist() == [1000, 10, 1, 512]
    assert table.loc["prepare", "gb"] == pytest.approx(0.1)
    assert table.loc["encode", ["planned", "s_per_unit"]].tolist() == [1800, 1]
    assert table.loc["encode", ["hours_1", "hours_4"]].tolist() == pytest.approx([0.5, 0.15])
    assert table.loc["train", ["jobs", "s_per_unit", "hours_1"]].tolist() == pytest.approx(
        [3, 800, 2400 / 3600], rel=1e-5
    )
    assert table.loc["sample", ["planned", "jobs", "s_per_unit"]].tolist() == [300, 6, 1]
    assert table.loc["evaluate", ["planned", "s_per_unit"]].tolist() == [300, 2]
    assert "cpu, 2 threads" in page and "4,500,000 parameters" in page and "| all |" in page
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1


def test_a_stage_without_benchmark_is_named(study):
    (study / "benchmarks/latent_statistics.tsv").unlink()
    with pytest.raises(SystemExit, match="no benchmark of latent_statistics in"):
        make(study)
