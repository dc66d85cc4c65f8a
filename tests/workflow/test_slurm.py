"""A study on a real Slurm of one node with simulated GPUs: job arrays, time limits, one training in several tasks."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from neuromf.core.files import save_tensors
from neuromf.data.participants import write_table
from neuromf.vae import statistics

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "scontrol", "sbatch")
HOST = socket.gethostname().split(".")[0]
CONF = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port_d}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=128000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=1440 State=UP
"""


def missing():
    """Why no Slurm can be started here, or nothing."""
    if os.geteuid():
        return "a Slurm of one's own needs root"
    if absent := [name for name in PROGRAMS if not found(name)]:
        return f"{', '.join(absent)} not installed; apt-get install slurmctld slurmd slurm-client munge"
    return ""


def found(name):
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(condition, seconds, what):
    """What a condition comes to, as soon as that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s")


# --- the cluster -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a shell on a cluster of this machine, whose daemons end with the tests."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    write_conf(folder)
    path = f"{folder}/bin{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_CONF": f"{folder}/slurm.conf", "OMP_NUM_THREADS": "1"}
    try:
        start(folder, env)
        yield env
    finally:
        stop(folder, env)


def write_conf(folder):
    for name in ("munge", "ctld", "slurmd", "bin"):
        (folder / name).mkdir()
    text = CONF.format(folder=folder, host=HOST, port=free_port(), port_d=free_port())
    (folder / "slurm.conf").write_text(text)
    pretended = "".join(f"NodeName={HOST} Name=gpu File=/dev/{name}\n" for name in ("null", "zero"))
    (folder / "gres.conf").write_text(f"AutoDetect=off\n{pretended}")
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o600)
    for parent in (folder / "munge", *folder.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    # the plugin's inner step forgets SLURM_CONF, which a cluster with a /etc/slurm does not need
    shim = folder / "bin/srun"
    shim.write_text(f'#!/bin/sh\nexport SLURM_CONF={folder}/slurm.conf\nexec {shutil.which("srun")} "$@"\n')
    shim.chmod(0o755)


def start(folder, env):
    munge = {"key-file": "key", "socket": "sock", "pid-file": "munged.pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge/{name}" for option, name in munge.items()]
    subprocess.run([found("munged"), "--force", *options], check=True)
    for name in ("slurmctld", "slurmd"):
        subprocess.run([found(name), "-c", "-f", f"{folder}/slurm.conf"], check=True)
    wait(lambda: ask(env, "sinfo", "-h", "-o", "%T") == "idle", 60, "an idle node")


def stop(folder, env):
    with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
        ask(env, "scancel", "--partition=main")
        wait(lambda: not ask(env, "squeue", "-h"), 20, "an empty queue")
    for name in ("slurmd.pid", "slurmctld.pid", "munge/munged.pid"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((folder / name).read_text())
            os.kill(pid, signal.SIGTERM)
            wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20, f"the end of {name}")


def ask(env, *command):
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30).stdout.strip()


def jobs(env):
    """State, rule, GPUs, limit in time and id of every job that this Slurm has seen."""
    asked = "JobArrayID:40,State:20,tres-per-job:40,TimeLimit:20,Comment:200"
    lines = ask(env, "squeue", "--states=all", "-h", "-O", asked).splitlines()
    return [dict(zip(("id", "state", "gpu", "limit", "rule"), line.split(), strict=True)) for line in lines]


# --- the study ---------------------------------------------------------------------------------------


@pytest.fixture
def submit(cluster, tmp_path):
    """Start Snakemake with the profile as it stands, what a site edits changed; in a group of its own."""
    running = []

    def begin(*targets, study=None, **edits):
        profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
        for rule, values in edits.pop("resources", {}).items():
            profile["set-resources"][rule] |= values
        quick = {"slurm-init-seconds-before-status-checks": 1, "seconds-between-status-checks": 1, "latency-wait": 5}
        (tmp_path / "profile").mkdir()
        (tmp_path / "profile/profile.yaml").write_text(
            yaml.safe_dump(profile | {"slurm-status-command": "squeue"} | quick | edits)
        )
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study or {}))
        files = [str(ROOT / "tests/config/tiny.yaml"), str(tmp_path / "study.yaml")]
        where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path / "work")]
        command = [sys.executable, "-m", "snakemake", *targets, *where, "--configfile", *files]
        with (tmp_path / "snakemake.log").open("w") as log:
            whole = [*command, "--workflow-profile", str(tmp_path / "profile")]
            process = subprocess.Popen(whole, env=cluster, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(process, seconds, log):
    try:
        status = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        status = f"no end after {seconds} s"
    assert status == 0, log.read_text()[-4000:]


def test_shards_run_on_the_cluster_as_an_array(cluster, submit, tmp_path):
    study = {"cohort": {"scans_per_shard": 4, "embedded": {"n_participants": 8}}}
    process = submit("results/cohort/participants.tsv", study=study, **{"slurm-array-jobs": "simulate_participants"})
    ended(process, 240, tmp_path / "snakemake.log")
    mine = {job["id"]: job for job in jobs(cluster)}
    shards = [job for job in mine.values() if "simulate_participants" in job["rule"]]
    assert {job["state"] for job in mine.values()} == {"COMPLETED"} and len(mine) == 3
    assert sorted(job["id"].split("_")[1] for job in shards) == ["1", "2"]  # two tasks of one array
    assert {job["gpu"] for job in mine.values()} == {"N/A"} and {job["limit"] for job in shards} == {"30:00"}
    assert len((tmp_path / "work/results/cohort/participants.tsv").read_text().splitlines()) == 9
    assert (tmp_path / "work/results/logs/simulate_participants/0.log").exists()


@pytest.fixture
def trainable(tmp_path):
    """What the training reads, in place of the jobs before it: noise as latents, and an open gate."""
    results, scans = tmp_path / "work/results", [f"s{k}" for k in range(12)]
    for name in ("latents", "gates", "cohort"):
        (results / name).mkdir(parents=True)
    splits = ["train"] * 9 + ["val"] * 3
    write_table(pd.DataFrame({"scan": scans, "participant": scans, "split": splits}), results / "cohort/qc.tsv")
    mean = torch.randn(12, 4, 8, 12, 8, generator=torch.Generator().manual_seed(0))
    empty = {"augmented": mean[:0], "augmented_scans": []}
    for shard, rows in enumerate((range(8), range(8, 12))):
        part = {"scans": [scans[k] for k in rows], "mean": mean[list(rows)], "std": mean[list(rows)].abs()}
        save_tensors({**part, **empty}, results / f"latents/{shard}.pt")
    (results / "latents/stats.json").write_text(json.dumps(statistics.statistics(mean, mean.abs())))
    (results / "gates/phase_3.json").write_text(json.dumps({"phase": 3, "status": "OPEN", "blocked_by": []}))
    return results


def test_a_hanging_training_is_stopped_at_its_limit_and_resumes(cluster, submit, trainable, tmp_path):
    run = trainable / "runs/meanflow"
    study = {"meanflow": {"train": {"steps": 40, "checkpoint_every": 10}, "ablations": {"run": []}}}
    process = submit(
        str((run / "model.pt").relative_to(trainable.parent)),
        "--rerun-triggers=mtime",
        study=study,
        resources={"train": {"runtime": "10 * attempt"}},
    )
    wait(lambda: (run / "ckpt/last.ckpt").exists() or process.poll() is not None, 240, "the first checkpoint")
    assert process.poll() is None, (tmp_path / "snakemake.log").read_text()[-4000:]
    (first,) = [job for job in jobs(cluster) if "train" in job["rule"]]
    assert first["state"] == "RUNNING" and first["gpu"] == "gres:gpu:1" and first["limit"] == "10:00"
    assert "GRES=gpu:1(IDX:0)" in ask(cluster, "scontrol", "show", "job", "-d", first["id"])  # and was given one
    hang(run)
    ask(cluster, "scontrol", "update", f"JobId={first['id']}", "TimeLimit=1")
    ended(process, 600, tmp_path / "snakemake.log")
    states = [(job["state"], job["limit"], job["gpu"]) for job in jobs(cluster) if "train" in job["rule"]]
    assert sorted(states) == [("COMPLETED", "20:00", "gres:gpu:1"), ("TIMEOUT", "1:00", "gres:gpu:1")]
    log = (trainable / "logs/train/meanflow.log").read_text()
    assert "resuming from" in log and not list((run / "ckpt").glob("*.ckpt"))
    assert (run / "model.pt").exists() and "\n40," in (run / "history.csv").read_text()


def hang(run):
    """Stop the process that trains, so that it can neither end nor hear a signal that asks it to."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "workflow_scripts.train" in words and os.readlink(folder / "cwd") == str(run.parents[2]):
                os.kill(int(folder.name), signal.SIGSTOP)
                return
    raise AssertionError("no process trains")


def test_two_tasks_of_one_srun_train_one_run(cluster, submit, trainable, tmp_path):
    run = trainable / "runs/meanflow"
    several = {
        "gpu": 2,
        "tasks_per_node": 2,
        "mpi": "srun",
        "launch": "srun --ntasks-per-node=2 --gpus=2",
        "cpus_per_task": 1,
    }
    process = submit(
        str((run / "model.pt").relative_to(trainable.parent)),
        "--rerun-triggers=mtime",
        study={"meanflow": {"train": {"steps": 4, "log_every": 2}, "ablations": {"run": []}}},
        resources={"train": several},
    )
    ended(process, 240, tmp_path / "snakemake.log")
    states = [job["state"] for job in jobs(cluster) if "train" in job["rule"] and job["gpu"] == "gres:gpu:2"]
    assert states == ["COMPLETED"]
    log = (trainable / "logs/train/meanflow.log").read_text()
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in log and "2 processes" in log
    assert (run / "model.pt").exists() and len((run / "history.csv").read_text().splitlines()) == 3
