"""Damaged checkpoints, full disks, exhausted memory: remaining files and messages."""

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


def study(steps=8, **settings):
    data = torch.randn(10, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    times = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}
    settings = {"batch": 4, "lr": 1e-2, "seed": 5, "warmup": 2, "log_every": 2, "times": times} | settings
    return MeanFlowModule(run.build_network(NET, "u", seed=3), data, steps=steps, **settings)


def fit(module, checkpoint, **settings):
    trainer.fit(
        module, checkpoint=checkpoint, accelerator="cpu", checkpoint_every=2, **{"provenance": "this", **settings}
    )
    return module


def stopped(checkpoint, at=5):
    """Train until a kill at this step, which leaves the checkpoints of steps 2 and 4."""
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
    """Change bytes in the middle of a file."""
    found = bytearray(path.read_bytes())
    found[len(found) // 2 : len(found) // 2 + 64] = bytes(64)
    path.write_bytes(found)


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


@pytest.mark.parametrize(
    ("damage", "damaged", "first"),
    [(cut, ["last"], 2), (flip, ["last"], 2), (cut, ["last", "before-last"], 0)],
    ids=["cut", "flipped", "both cut"],
)
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(tmp_path, unbroken, damage, damaged, first, caplog):
    caplog.set_level(logging.WARNING)
    stopped(tmp_path / "last.ckpt")
    for name in damaged:
        damage(tmp_path / f"{name}.ckpt")
    steps, module = [], study()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: steps.append(module.global_step) or step(batch, batch_idx)
    assert same(fit(module, tmp_path / "last.ckpt").state_dict(), unbroken) and steps[0] == first
    warnings = [message for message in caplog.messages if "is not resumed: it is" in message]
    assert len(warnings) == len(damaged) and f"{tmp_path}/last.ckpt" in warnings[0]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_settings_is_ignored(tmp_path, unbroken, caplog):
    caplog.set_level(logging.WARNING)
    stopped(tmp_path / "last.ckpt")
    assert checkpoints.find_checkpoint(tmp_path / "last.ckpt", "this") == tmp_path / "last.ckpt"
    assert checkpoints.find_checkpoint(tmp_path / "last.ckpt", "another") is None
    assert "it was written with other settings, data or code" in caplog.text


def test_checkpoints_stay_until_the_results_are_written(tmp_path):
    fit(study(), tmp_path / "last.ckpt", keep_checkpoint=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before-last.ckpt", "last.ckpt"]
    checkpoints.delete_checkpoints(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def small_files(most=20_000):
    """Limit files to `most` bytes, as a full disk would."""
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


def test_a_full_disk_leaves_the_old_tensors(small_disk):
    save_tensors({"old": torch.zeros(3)}, small_disk / "0.pt")
    before = (small_disk / "0.pt").read_bytes()
    with pytest.raises(OSError) as caught:
        save_tensors({"new": torch.zeros(10**6)}, small_disk / "0.pt")
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in small_disk.iterdir()] == ["0.pt"] and (small_disk / "0.pt").read_bytes() == before


def test_the_bytes_of_tensors_do_not_depend_on_the_file_name(tmp_path):
    for name in ("a.pt", "another.pt"):
        save_tensors({"x": torch.arange(5)}, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, unbroken):
    stopped(tmp_path / "last.ckpt")
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    with small_files(), pytest.raises(OSError) as caught:
        fit(study(), tmp_path / "last.ckpt")
    assert caught.value.errno == errno.EFBIG and {path: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    assert same(fit(study(), tmp_path / "last.ckpt").state_dict(), unbroken)


def test_a_full_disk_leaves_no_partial_figure(tmp_path):
    fig, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).random((300, 300)))
    with small_files(), pytest.raises(OSError, match="File too large"):
        style.save(fig, tmp_path / "fig", {})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "table") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            MemoryError(),
            "Rule train ran out of memory: raise its mem_mb (--set-resources train:mem_mb=N, or the profile)",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "or the profile), or set meanflow.train.batch to 8 (now 16) and meanflow.train.accumulate to 4 (now 2).",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
            "Rule train ran out of GPU memory: set meanflow.train.batch to 8 (now 16) and meanflow.train.accumulate to",
        ),
        (
            OSError(errno.ENOSPC, "No space", "/data/0.pt"),
            "Rule train: the disk of /data/0.pt is full. Complete files",
        ),
        (OSError(errno.EROFS, "Read-only", "/data/0.pt"), "Rule train cannot write /data/0.pt. Make it writable, or"),
        (ValueError("a wrong value"), ""),
        (RuntimeError("shapes do not match"), ""),
    ],
)
def test_machine_errors_give_advice(error, words):
    found = advice(error, "train", {"train": {"batch": 16, "accumulate": 2}})
    assert words in found and bool(words) == bool(found)


@pytest.mark.parametrize(
    ("rule", "config", "way"),
    [
        ("train", {"train": {"batch": 1, "accumulate": 32}}, "lower meanflow.net.widths"),
        (
            "train",
            {"train": {"batch": 3}},
            "set meanflow.train.batch to 1 (now 3) and meanflow.train.accumulate to 3",
        ),
        ("sample", {"batch": 8}, "set meanflow.samples.batch to 4 (now 8)"),
        ("sample_pairs", {"batch": 8}, "set meanflow.samples.batch to 4 (now 8)"),
        ("finetune", {"finetune": {"batch": 4}}, "set lesions.finetune.batch to 2 (now 4)"),
        ("finetune", {"finetune": {"batch": 1}}, "lower lesions.adapter.rank"),
        ("autoencoder", {"batch": 2}, "set autoencoder.batch to 1 (now 2)"),
        ("fig_3", {}, "see the message above"),
    ],
)
def test_a_full_gpu_gives_the_key_and_the_value_to_try(rule, config, way):
    found = advice(torch.OutOfMemoryError("CUDA out of memory"), rule, config)
    assert found.startswith(f"Rule {rule} ran out of GPU memory: {way}") and "mem_mb" not in found


@pytest.mark.parametrize(("device", "memory"), [("cuda:0", "GPU memory: see the message above."), ("cpu", "memory: r")])
def test_a_message_of_the_autoencoder_has_its_own_way_out(device, memory):
    error = MemoryError(f"the autoencoder ran out of memory on {device}: set autoencoder.num_splits to 8 (now 4)")
    found = advice(error, "sample", {"batch": 8})
    assert found.startswith(f"Rule sample ran out of {memory}") and "samples.batch" not in found


LITTLE = """
import resource, runpy, sys
from neuromf.meanflow import toy_torus
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, -1))
sys.argv = ["torus", *sys.argv[1:]]
runpy.run_module("workflow_scripts.torus", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_script_out_of_memory_names_its_rule_and_setting(tmp_path):
    config = yaml.safe_load((ROOT / "config.yaml").read_text())["meanflow"]["toy"] | {"batch": 10**8, "n_steps": 1}
    files = [word for name in ("history", "samples", "summary") for word in (f"--{name}", str(tmp_path / name))]
    command = [sys.executable, "-c", LITTLE, "--config", json.dumps(config), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Rule torus ran out of memory: raise its mem_mb" in done.stderr
    assert not list(tmp_path.iterdir())
