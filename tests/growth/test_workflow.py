"""The rules of the growth system: their plan, and their resources on a cluster."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import snakemake_start

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.slow
def test_the_growth_system_runs_at_the_smallest_scale_and_leaves_nothing_stale(tmp_path):
    command = [sys.executable, "-m", "snakemake", "growth", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    command += ["--configfile", str(ROOT / "tests/config/tiny.yaml"), "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "results/growth/figures/fig_1.pdf").stat().st_size > 10_000
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "Nothing to be done" in done.stdout + done.stderr
