"""Checkpoints that are spoilt, disks that are full, memory at an end: what is kept, and what is said."""

import contextlib
import errno
import json
import logging
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml

from neuromf.core.files import atomic_write, save_tensors
from neuromf.figures import style
from neuromf.meanflow import run
from neuromf.meanflow.module import MeanFlowModule
from neuromf.training import checkpoints, trainer
from workflow_scripts._cli import advice

ROOT = Path(__file__).resolve().parents[2]
NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}


# --- checkpoints -------------------------------------------------------------------------------------


def study(steps=8, **settings):
    data = torch.randn(10, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    times = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}
    settings = {"batch": 4, "lr": 1e-2, "seed": 5, "warmup": 2, "log_every": 2, "times": times} | settings
    return MeanFlowModule(run.build_network(NET, "u", seed=3), data, steps=steps, **settings)


def fit(module, checkpoint, **settings):
    trainer.fit(module, checkpoint=checkpoint, accelerator="cpu", checkpoint_every=2, **{"made_by": "this", **settings})
    return module


def stopped(checkpoint, at=5):
    """Train until a kill at this step, which leaves the checkpoints of the steps 2 and 4."""
    module = study()
    step = module.training_step

    def killed(batch, batch_idx):  # Lightning looks at these names
        if module.global_step == at:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    module.training_step = killed
    with pytest.raises(BaseException):  # noqa: B017 - Lightning wraps a keyboard interrupt in an exit
        fit(module, checkpoint)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return fit(study(), tmp_path_factory.mktemp("unbroken") / "last.ckpt").state_dict()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Change bytes in the middle, as a failing disk does."""
    found = bytearray(path.read_bytes())
    found[len(found) // 2 : len(found) // 2 + 64] = bytes(64)
    path.write_bytes(found)


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


@pytest.mark.parametrize(
    ("damage", "spoilt", "first"),
    [(cut, ["last"], 2), (flip, ["last"], 2), (cut, ["last", "before-last"], 0)],
    ids=["cut", "flipped", "both cut"],
)
def test_a_spoilt_checkpoint_is_named_and_the_one_before_or_the_start_taken(
    tmp_path, unbroken, damage, spoilt, first, caplog
):
    caplog.set_level(logging.WARNING)
    stopped(tmp_path / "last.ckpt")
    for name in spoilt:
        damage(tmp_path / f"{name}.ckpt")
    steps, module = [], study()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: steps.append(module.global_step) or step(batch, batch_idx)
    assert same(fit(module, tmp_path / "last.ckpt").state_dict(), unbroken) and steps[0] == first
    told = [message for message in caplog.messages if "is not gone on from: it is" in message]
    assert len(told) == len(spoilt) and f"{tmp_path}/last.ckpt" in told[0]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_settings_or_code_is_left_out(tmp_path, unbroken, caplog):
    caplog.set_level(logging.WARNING)
    stopped(tmp_path / "last.ckpt")
    assert checkpoints.find_checkpoint(tmp_path / "last.ckpt", "this") == tmp_path / "last.ckpt"
    assert checkpoints.find_checkpoint(tmp_path / "last.ckpt", "another") is None
    assert "it is of other settings, data or code" in caplog.text


def test_checkpoints_stay_until_the_results_are_written(tmp_path):
    fit(study(), tmp_path / "last.ckpt", keep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before-last.ckpt", "last.ckpt"]
    checkpoints.delete_checkpoints(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


# --- full disks --------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_files(most=20_000):
    """No file may grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 0.1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_leaves_the_old_tensors_and_no_half_of_the_new(small_disk):
    save_tensors({"old": torch.zeros(3)}, small_disk / "0.pt")
    before = (small_disk / "0.pt").read_bytes()
    with pytest.raises(OSError) as caught:
        save_tensors({"new": torch.zeros(10**6)}, small_disk / "0.pt")
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in small_disk.iterdir()] == ["0.pt"] and (small_disk / "0.pt").read_bytes() == before


def test_the_bytes_of_tensors_do_not_depend_on_the_name_of_their_file(tmp_path):
    for name in ("a.pt", "another.pt"):
        save_tensors({"x": torch.arange(5)}, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, unbroken):
    stopped(tmp_path / "last.ckpt")
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    with small_files(), pytest.raises(OSError) as caught:
        fit(study(), tmp_path / "last.ckpt")
    assert caught.value.errno == errno.EFBIG and {path: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    assert same(fit(study(), tmp_path / "last.ckpt").state_dict(), unbroken)


def test_a_full_disk_leaves_no_half_of_a_figure(tmp_path):
    fig, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).random((300, 300)))
    with small_files(), pytest.raises(OSError, match="File too large"):
        style.save(fig, tmp_path / "fig", {})
    assert not list(tmp_path.iterdir())


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "table") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


# --- the machine is the reason -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            MemoryError(),
            "Rule train ran out of memory: raise its mem_mb (--set-resources train:mem_mb=N, or the profile)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "or lower train.batch"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "or lower train.batch"),
        (
            OSError(errno.ENOSPC, "No space", "/data/0.pt"),
            "Rule train found the disk of /data/0.pt full. What was whole",
        ),
        (OSError(errno.EROFS, "Read-only", "/data/0.pt"), "Rule train may not write /data/0.pt. Make it writable, or"),
        (ValueError("a wrong value"), ""),
        (RuntimeError("shapes do not match"), ""),
    ],
)
def test_the_machine_is_named_where_it_is_the_reason_and_only_there(error, words):
    said = advice(error, "train")
    assert words in said and bool(words) == bool(said)


LITTLE = """
import resource, runpy, sys
from neuromf import torus
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, -1))
sys.argv = ["torus", *sys.argv[1:]]
runpy.run_module("workflow_scripts.torus", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_script_without_memory_says_so_with_its_rule_and_its_setting(tmp_path):
    config = yaml.safe_load((ROOT / "config.yaml").read_text())["torus"] | {"batch": 10**8, "n_steps": 1}
    files = [word for name in ("history", "samples", "summary") for word in (f"--{name}", str(tmp_path / name))]
    command = [sys.executable, "-c", LITTLE, "--config", json.dumps(config), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Rule torus ran out of memory: raise its mem_mb" in done.stderr
    assert not list(tmp_path.iterdir())
