"""Faults during whole runs: complete files are never lost, and the next run ends like an uninterrupted one.

docs/faults.md has a row for each fault, with its test.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import snakemake_start
import yaml

from neuromf.data.participants import read_table

ROOT = Path(__file__).resolve().parents[2]


# --- Snakemake ---------------------------------------------------------------------------------------


FIGURE = "results/figures/fig_2.pdf"
NO_ABLATIONS = {"meanflow": {"ablations": {"run": []}}}
TORUS = {"meanflow": {"toy": {"n_steps": 60}, "ablations": {"run": []}}}


def command(*arguments, study=TORUS, root=ROOT):
    """Snakemake on the tiny study with these changes."""
    tiny = [
        "--configfile",
        str(root / "tests/config/tiny.yaml"),
        "--config",
        *(f"{k}={json.dumps(v)}" for k, v in study.items()),
    ]
    snakefile = ["--snakefile", str(root / "Snakefile")]
    return [sys.executable, "-m", "snakemake", *arguments, "--cores", "2", *snakefile, *tiny]


def environment(**more):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # rules call python by name
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def snakemake(*arguments, cwd, check=True, **options):
    done = subprocess.run(
        command(*arguments, **options), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def started(*arguments, cwd, log, study=TORUS, env=None):
    """Snakemake in a process group of its own, which can be killed with all its jobs."""
    with open(log, "a") as file:
        return subprocess.Popen(
            command(*arguments, study=study), cwd=cwd, env=env or environment(), stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def end(process, number):
    """Send a signal to the whole group, as a terminal does, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(timeout=60)


def nothing_to_do(cwd, **options):
    return "Nothing to be done" in snakemake(FIGURE, "-n", cwd=cwd, **options).stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the repository with the torus and its figure made."""
    copy = tmp_path_factory.mktemp("checkout") / "repository"
    for name in ("neuromf", "workflow_scripts", "rules", "profiles", "envs", "studies", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, copy / name)
    snakemake(FIGURE, cwd=copy, root=copy)
    return copy


LONG = {"meanflow": {"toy": {"n_steps": 10**6}, "ablations": {"run": []}}}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_unlocks_and_can_be_resumed(tmp_path, number):
    process = started(FIGURE, cwd=tmp_path, log=tmp_path / "log", study=LONG)
    wait(lambda: (tmp_path / "results/logs/torus.log").exists(), 60)
    end(process, number)
    assert process.returncode != 0 and not (tmp_path / "results/toy/summary.csv").exists()
    assert not list((tmp_path / ".snakemake/locks").glob("*"))
    snakemake(FIGURE, cwd=tmp_path)


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_refused(tmp_path):
    first = started(FIGURE, cwd=tmp_path, log=tmp_path / "log", study=LONG)
    try:
        wait(lambda: (tmp_path / "results/logs/torus.log").exists(), 60)
        second = snakemake(FIGURE, cwd=tmp_path, check=False)
        assert second.returncode != 0 and "Directory cannot be locked" in second.stderr + second.stdout
        assert first.poll() is None
    finally:
        end(first, signal.SIGKILL)
    snakemake("--unlock", cwd=tmp_path)  # what a kill without warning leaves, and Snakemake names the word
    snakemake(FIGURE, cwd=tmp_path)


@pytest.mark.slow
def test_results_survive_a_fresh_checkout_and_a_move(finished, tmp_path):
    assert nothing_to_do(finished, root=finished)
    for path in (path for path in finished.rglob("*") if path.suffix in (".py", ".smk", ".yaml")):
        path.touch()  # as a fresh checkout does
    assert nothing_to_do(finished, root=finished)
    elsewhere = tmp_path / "another machine" / "study"
    shutil.copytree(finished, elsewhere)
    assert nothing_to_do(elsewhere, root=elsewhere)


@pytest.mark.slow
def test_no_command_of_the_default_study_names_its_folder():
    """Else a study that moves would be stale: parameters and inputs are compared as they stand."""
    output = snakemake("all", "-n", "-p", "--forceall", cwd=ROOT, study={}).stdout.partition("Building DAG of jobs")[2]
    assert "workflow_scripts.train" in output and not [line for line in output.splitlines() if str(ROOT) in line]


@pytest.mark.slow
def test_a_table_edited_by_hand_makes_later_stages_stale(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    table = tmp_path / "copy/results/toy/summary.csv"
    made = table.read_bytes()
    table.write_bytes(made.replace(b"0.", b"9.", 1))
    output = snakemake(FIGURE, "-n", cwd=tmp_path / "copy", root=tmp_path / "copy").stdout
    assert "rule fig_2" in output and "rule torus" not in output and "results/toy/summary.csv" in output
    table.unlink()
    snakemake("results/toy/summary.csv", cwd=tmp_path / "copy", root=tmp_path / "copy")
    assert table.read_bytes() == made


@pytest.mark.slow
def test_a_clock_set_back_makes_nothing_stale_and_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    future = time.time() + 86_400
    for path in (tmp_path / "copy/results/toy").iterdir():
        os.utime(path, (future, future))
    assert nothing_to_do(tmp_path / "copy", root=tmp_path / "copy")
    (tmp_path / "copy" / FIGURE).unlink()
    refused = snakemake(FIGURE, cwd=tmp_path / "copy", root=tmp_path / "copy", check=False)
    assert refused.returncode != 0 and "clock skew" in refused.stderr and "results/toy/" in refused.stderr
    for path in (tmp_path / "copy/results/toy").iterdir():
        path.touch()
    output = snakemake(FIGURE, cwd=tmp_path / "copy", root=tmp_path / "copy").stderr
    assert "rule fig_2" in output and "rule torus" not in output


@pytest.mark.slow
def test_a_read_only_results_folder_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    results = tmp_path / "copy/results"
    before = (results / "figures/fig_2.png").read_bytes()
    mount = ["mount", "--bind", str(results), str(results)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no folder can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(results)], check=True)
        done = snakemake(FIGURE, "--force", cwd=tmp_path / "copy", root=tmp_path / "copy", check=False)
    finally:
        subprocess.run(["umount", str(results)], check=True)
    assert done.returncode != 0 and "Write-protected output files" in done.stderr + done.stdout
    assert (results / "figures/fig_2.png").read_bytes() == before
    assert nothing_to_do(tmp_path / "copy", root=tmp_path / "copy")


# --- ten kills ---------------------------------------------------------------------------------------

WHOLE = ("results/metrics/metrics.csv", "results/figures/fig_1.pdf", "results/figures/fig_2.pdf")
TIMED = {"seconds", "peak_mb"}  # of a card
OFFLINE = """
import socket
real = socket.socket.connect
def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise AssertionError(f"a rule asks the network for {address}")
    return real(self, address)
socket.socket.connect = refuse
"""


def artefacts(folder):
    """Every result by its name and digest, times left out."""
    made = {}
    for path in sorted((folder / "results").rglob("*")):
        name = str(path.relative_to(folder / "results"))
        if path.is_file() and name.split("/")[0] not in ("logs", "benchmarks", "bench"):
            content = path.read_bytes()
            if path.name == "card.json":
                content = json.dumps({k: v for k, v in json.loads(content).items() if k not in TIMED}).encode()
            made[name] = hashlib.sha256(content).hexdigest()
    return made


@pytest.mark.slow
def test_ten_kills_end_with_the_bytes_of_an_uninterrupted_run(tmp_path):
    """The unbroken run has no network, either: what asks for one fails."""
    for name in ("unbroken", "killed", "offline"):
        (tmp_path / name).mkdir()
    (tmp_path / "offline/sitecustomize.py").write_text(OFFLINE)
    env = environment(PYTHONPATH=str(tmp_path / "offline"))
    process = started(*WHOLE, cwd=tmp_path / "unbroken", log=tmp_path / "log", study=NO_ABLATIONS, env=env)
    assert process.wait(timeout=1800) == 0, (tmp_path / "log").read_text()[-4000:]
    moments, kills = random.Random(0), 0
    for _ in range(10):
        process = started(*WHOLE, cwd=tmp_path / "killed", log=tmp_path / "killed.log", study=NO_ABLATIONS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(5, 30))
        kills += process.poll() is None
        end(process, signal.SIGKILL)
        snakemake("--unlock", cwd=tmp_path / "killed", study=NO_ABLATIONS)
    assert kills == 10
    snakemake(*WHOLE, cwd=tmp_path / "killed", study=NO_ABLATIONS)
    unbroken, killed = artefacts(tmp_path / "unbroken"), artefacts(tmp_path / "killed")
    assert (
        len(unbroken) > 60 and {name for name in unbroken | killed if unbroken.get(name) != killed.get(name)} == set()
    )


# --- what comes from elsewhere ---------------------------------------------------------------------

ODD = [
    "sp ace",
    "quo'te",
    'dou"ble',
    "$(touch pwned)",
    "`touch pwned`",
    "semi;touch pwned",
    "new\nline",
    "ünïcode 脳",
    "-rf",
]


@pytest.mark.slow
def test_names_of_scans_and_folders_are_never_read_by_a_shell(tmp_path):
    root = tmp_path / "scans of $(touch pwned) 'and' \"more\""
    root.mkdir()
    data = np.random.default_rng(0).uniform(50, 100, (20, 24, 20)).astype(np.float32)
    for name in ODD:
        image = nib.Nifti1Image(np.roll(data, len(name), 0) + len(name), np.diag([4.0, 4, 4, 1]))
        image.set_sform(image.affine, 1)
        nib.save(image, root / f"{name}.nii.gz")
    source = {"source": "folder", "folder": {"root": str(root)}, "scans_per_shard": 100}
    work = tmp_path / "work in $(touch pwned)"
    work.mkdir()
    (work / "study.yaml").write_text(yaml.safe_dump({"cohort": source, **NO_ABLATIONS}, allow_unicode=True))
    line = command("results/cohort/qc.tsv", study={})
    line[-1:] = ["--configfile", str(ROOT / "tests/config/tiny.yaml"), str(work / "study.yaml")]
    done = subprocess.run(line, cwd=work, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_table(work / "results/cohort/qc.tsv")) == len(ODD)
    assert not list(tmp_path.rglob("pwned")) and not (ROOT / "pwned").exists()


def test_a_config_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "bomb.yaml").write_text('study: !!python/object/apply:os.system ["touch pwned"]\n')
    arguments = [*command("-n", study={})[3:-1], "--configfile", str(tmp_path / "bomb.yaml")]
    done = snakemake_start.snakemake(arguments, cwd=tmp_path, env=environment())
    assert done.returncode != 0 and "Config file is not valid JSON or YAML" in done.stderr + done.stdout
    assert not (tmp_path / "pwned").exists()
