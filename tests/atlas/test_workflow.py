"""The rules of the atlas: their plan, resources on a cluster, dvc.yaml, a complete run on the mock."""

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from atlas.atlas_helpers import REAL_DATA

from neuromf.core.files import sha256
from neuromf.workflow.dvc import as_yaml, stages

ROOT = Path(__file__).resolve().parents[2]


def snakemake(folder, *options):
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    return SimpleNamespace(code=done.returncode, text=done.stdout + done.stderr)


TINY = ["--configfile", str(ROOT / "tests/config/tiny.yaml")]


@pytest.mark.slow
def test_A74_a_dry_run_through_the_slurm_profile_shows_resources_and_no_vendor(tmp_path):
    done = snakemake(tmp_path, "atlas", "-n", "-p", "--workflow-profile", str(ROOT / "profiles/slurm"), *TINY)
    assert done.code == 0, done.text
    for rule in ("atlas_studies", "atlas_maps", "atlas_gate"):
        job = re.search(rf"rule {rule}:\n(.*?)\n(?=\[|(?:local)?rule )", done.text, re.S)[1]
        assert {"mem_mb=", "runtime=", "slurm_partition="} <= set(re.findall(r"mem_mb=|runtime=|slurm_partition=", job))
    packages = yaml.safe_load((ROOT / "envs/neuromf.yaml").read_text()), (ROOT / "envs/requirements.lock").read_text()
    assert not re.search("boto3|google-cloud|azure|runpod|lambda-cloud", str(packages))


@pytest.mark.slow
def test_A14_the_chain_runs_on_the_mock_and_leaves_nothing_stale(tmp_path):
    done = snakemake(tmp_path, "atlas", "--cores", "2", *TINY)
    assert done.code == 0, done.text
    atlas = tmp_path / "results/atlas"
    assert (atlas / "figures/fig_1.pdf").stat().st_size > 10_000
    assert json.loads((atlas / "figures/fig_1.json").read_text())["statement"].startswith("Mock data")
    assert json.loads((atlas / "gates/stage_1.json").read_text())["status"] == "OPEN"
    found = yaml.safe_load((atlas / "dvc.yaml").read_text())["stages"]
    assert found["atlas_maps-9"] == {
        "cmd": "snakemake --cores all results/atlas/maps/9.npy", "deps": ["results/atlas/studies"],
        "outs": ["results/atlas/maps/9.npy"],
    }  # fmt: skip
    first = {path: sha256(path) for path in sorted((atlas / "studies").glob("*"))}
    assert "Nothing to be done" in snakemake(tmp_path, "atlas", "-n", *TINY).text
    assert snakemake(tmp_path, "atlas_studies", "--force", "--cores", "1", *TINY).code == 0
    assert {path: sha256(path) for path in first} == first
    refused = snakemake(tmp_path, "atlas_release", "--cores", "2", *TINY)
    assert refused.code != 0 and "a release holds full data alone" in refused.text


@pytest.mark.slow
def test_A75_the_chain_runs_on_the_subset_in_under_5_minutes(tmp_path):
    if not (REAL_DATA / "neurosynth_v7").is_dir():
        pytest.skip(f"{REAL_DATA}/neurosynth_v7 is absent; set NEUROMF_REAL_DATA")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    config = ["--config", "atlas={scale: subset_1k, data_root: " + str(REAL_DATA.resolve()) + "}"]
    done = snakemake(tmp_path, "atlas", "--cores", "2", *config)
    assert done.code == 0, done.text
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert min(seconds, time.monotonic() - began) < 300


def test_A14_stages_of_dvc_are_those_of_the_rules():
    rules = [
        SimpleNamespace(name="a", input=["x.txt"], output=["y.txt"]),
        SimpleNamespace(name="b", input=["y.txt", len], output=[r"m/{fwhm,[\d.]+}.npy"]),
        SimpleNamespace(name="c", input=["m/{fwhm}.npy"], output=["n/{fwhm}.csv"]),
        SimpleNamespace(name="d", input=[], output=["{run}/{seed}.csv"]),
        SimpleNamespace(name="e", input=["y.txt"], output=[]),
    ]
    found = yaml.safe_load(as_yaml(stages(rules, {"fwhm": ["9", "12"]})))["stages"]
    assert found.keys() == {"a", "b-9", "b-12", "c-9", "c-12"}
    assert found["b-9"] == {"cmd": "snakemake --cores all m/9.npy", "deps": ["y.txt"], "outs": ["m/9.npy"]}
    assert found["c-12"]["deps"] == ["m/12.npy"]


def test_one_rule_alone_writes_the_run_of_the_point_model():
    text = (ROOT / "rules/atlas_models.smk").read_text()
    preset = re.search(r'preset="(.*?)",', text)[1]
    assert not re.fullmatch(preset, "points")
    assert all(re.fullmatch(preset, name) for name in ("cvae", "baseline_vae", "points2"))
