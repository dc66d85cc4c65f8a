"""The rules of the growth system: their plan, and their resources on a cluster."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import snakemake_start
from growth.figure_helpers import check_figure

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("neuromf", "workflow_scripts", "rules", "profiles", "envs", "studies", "tests")
STAGES = ["simulate", "index", "train", "latents", "collapse", "disentangle", "image_forecast", "ladder", "gate"]


def plan(folder, *options):
    """Output of a dry run of the default study."""
    where = ["--directory", str(folder), "--snakefile", str(ROOT / "Snakefile")]
    done = snakemake_start.snakemake(["--dry-run", "--printshellcmds", *where, *options], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def block(text, rule, *wanted):
    """Lines of the job of a rule that name all of `wanted`."""
    jobs = re.findall(rf"^(?:local)?rule {rule}:\n(.*?)(?=^\[|^(?:local)?rule |\Z)", text, re.M | re.S)
    (job,) = [job for job in jobs if all(one in job for one in wanted)]
    return job


def test_G78_a_dry_run_through_the_slurm_profile_shows_resources_of_both_experiments(tmp_path):
    text = plan(tmp_path, "--workflow-profile", str(ROOT / "profiles/slurm"), "growth_exp1", "growth_exp2")
    for name in ("exp1", "exp2"):
        job = block(text, "growth_train", f"wildcards: experiment={name}")
        resources = re.search(r"resources: (.*)", job)[1]
        for wanted in ("gpu=1", "runtime=720", "mem_mb=32000", "slurm_partition=main", "cpus_per_task=8"):
            assert wanted in resources, (name, resources)
        assert f"results/growth/runs/{name}" in re.search(r"--out (\S+)", job)[1]


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository without results, and no real data beside it."""
    copy = tmp_path / "clone"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def alone(clone):
    """Environment in which a copy of the repository imports itself and finds no real data."""
    paths = {"PYTHONPATH": str(clone), "NEUROMF_REAL_DATA": str(clone / "none")}
    return {**os.environ, **paths, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_G72_a_clean_clone_plans_every_stage_and_figure(clone):
    arguments = ["growth", "--dry-run", "--cores", "2"]
    text = snakemake_start.snakemake(arguments, cwd=clone, env=alone(clone), check=True).stdout
    jobs = dict(re.findall(r"^(growth\w*) +(\d+)$", text, re.M))
    assert {f"growth_{name}" for name in STAGES} <= jobs.keys()
    assert jobs["growth_train"] == "3" and jobs["growth_collapse"] == "4" and jobs["growth_ladder"] == "2"
    figures = {path for path in re.findall(r"results/growth/figures/fig_\d\.pdf", text)}
    assert {f"results/growth/figures/fig_{k}.pdf" for k in (1, 2, 3, 4)} <= figures
    assert "growth_real_ladder" not in jobs  # no table of real volumes: no figure F6
    assert not (clone / "results").exists()


@pytest.mark.slow
def test_G72_a_clean_clone_runs_at_the_smallest_scale_and_leaves_nothing_stale(clone):
    command = [sys.executable, "-m", "snakemake", "growth", "--cores", "2", "--configfile", "tests/config/tiny.yaml"]
    subprocess.run(command, cwd=clone, env=alone(clone), check=True)
    results = clone / "results/growth"
    for name in ("fig_1", "fig_2", "fig_3", "fig_4", "fig_5", "headline"):  # fig_6 needs the table of real volumes
        assert check_figure(results / "figures" / name)["study"] == "tiny"
    assert "Simulated growth" in (results / "model_card.md").read_text()
    assert (results / "report.html").stat().st_size > 100_000
    for name in ("exp1", "exp2", "exp3"):
        assert (results / f"gates/{name}.json").exists() and (results / f"latents/{name}.npz").exists()
    assert len((results / "tables/collapse.csv").read_text().splitlines()) == 5
    again = subprocess.run([*command, "--dry-run"], cwd=clone, env=alone(clone), check=True, capture_output=True)
    assert b"Nothing to be done" in again.stdout + again.stderr
