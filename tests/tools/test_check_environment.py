"""`make check`: what a machine lacks is named, and the last line is the verdict."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_environment as check

ROOT = Path(__file__).parents[2]


def run(monkeypatch, capsys, **replaced):
    for name, value in replaced.items():
        monkeypatch.setattr(check, name, value)
    status = check.main()
    return status, capsys.readouterr().out.splitlines()


def test_a_complete_environment_is_ready(monkeypatch, capsys):
    pins = (ROOT / "envs/requirements.lock").read_text()
    status, lines = run(monkeypatch, capsys, installed=lambda name: pins.split(f"\n{name}==")[1].split()[0])
    assert (status, lines[-1]) == (0, "ready")
    digest = hashlib.sha256((ROOT / "neuromf/vae/compact_vae.safetensors").read_bytes()).hexdigest()
    assert any(digest in line for line in lines)


def test_everything_that_is_missing_stands_in_the_verdict(monkeypatch, capsys):
    limits = {"MIN_PYTHON": (99, 0), "MIN_DISK_GB": 1e9, "MIN_MEMORY_GB": 1e9}
    status, lines = run(monkeypatch, capsys, installed=lambda name: None, **limits)
    assert status == 1 and lines[-1].startswith("not ready: Python 3.11 or later")
    for part in ("packages (pip install", "disk: ", "memory: "):
        assert part in lines[-1]


def test_other_versions_are_listed_and_do_not_block(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# pins\ntorch==2.0.0\nmonai==1.5.0\nabsent-package==1.0\n")
    monkeypatch.setattr(check, "installed", {"torch": "2.1.0", "monai": "1.5.0"}.get)
    missing = []
    assert list(check.package_lines(lock, missing)) == [
        "1 of 3 as pinned in requirements.lock: torch 2.1.0, monai 1.5.0",
        "torch: 2.1.0, tested with 2.0.0",
        "absent-package: not installed, tested with 1.0",
    ]
    assert len(missing) == 1 and missing[0].startswith("1 packages")


@pytest.mark.parametrize("size", [None, 130])
def test_absent_weights_and_git_lfs_stubs_are_missing(tmp_path, size):
    path = tmp_path / "neuromf" / "vae" / "weights.safetensors"
    path.parent.mkdir(parents=True)
    if size:
        path.write_bytes(b"x" * size)
    missing = []
    assert list(check.weight_lines(path, missing)) == ["weights.safetensors: missing or a stub"]
    assert "git checkout neuromf/vae/weights.safetensors" in missing[0]


def test_data_sets_of_the_studies_are_found(tmp_path):
    (tmp_path / "ixi_t1_2mm").mkdir()
    (tmp_path / "holidays").mkdir()
    wanted = check.named_in_studies(ROOT / "studies")
    assert {"ixi_t1_2mm", "lgg_flair_lesion"} <= wanted
    lines = list(check.data_lines({"a": str(tmp_path), "b": str(tmp_path / "none"), "c": ""}, wanted))
    assert lines == ["a: ixi_t1_2mm", "b: no data set of studies/", "c: not set"]


def test_it_imports_no_heavy_package():
    code = "import sys, tools.check_environment; print({'torch', 'monai', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
