"""External tools: bias field correction, and skull stripping that may fail on single scans."""

import errno
import json
import os
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromf.data import external_tools, nifti, participants, preprocessing, scans
from workflow_scripts import prepare as prepare_script

SHAPE = (24, 28, 20)
GRID = {"spacing_mm": 4.0, "shape": (24, 28, 20)}
TO_WORLD = nib.affines.from_matvec(np.array([[0, 0, 4], [-4, 0, 0], [0, 4, 0]]), (-40, 50, -48))  # axes P, S, R

# A fake tool: its mask holds intensities between 150 and 250, and it logs its arguments
FAKE = """#!{python}
{before}
import sys, nibabel as nib, numpy as np
argv = sys.argv[1:]
if "--help" in argv:
    print({help!r})
    sys.exit({help_code})
open({log!r}, "a").write(" ".join(argv) + "\\n")
{body}
image = nib.load(argv[argv.index("-i") + 1])
inside = (image.get_fdata() > 150) & (image.get_fdata() < 250)
mask = nib.Nifti1Image(inside.astype(np.uint8), image.affine)
nib.save(mask, {mask})
print("done")
"""
HELPS = {
    "mri_synthstrip": "usage: mri_synthstrip [-h] -i file [-o file] [-m file]",
    "hd-bet": "usage: hd-bet [-h] -i INPUT [-o OUTPUT] [-device DEVICE] [--disable_tta] [--save_bet_mask]",
    "hd-bet-1": "usage: hd-bet [-h] -i INPUT [-o OUTPUT] [-mode MODE] [-device DEVICE] [-tta TTA] [-s SAVE_MASK]",
}
MASKS = {
    "mri_synthstrip": 'argv[argv.index("-m") + 1]',
    "hd-bet": '"brain_bet.nii.gz"',
    "hd-bet-1": '"brain_mask.nii.gz"',
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a fake tool on the PATH; `body` is Python code that runs before it writes its mask."""

    def make(name, body="", before="", help_code=0, as_name=None):
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        fields = {"python": sys.executable, "log": str(tmp_path / "calls"), "help": HELPS[name], "mask": MASKS[name]}
        path = place / (as_name or name.removesuffix("-1"))
        path.write_text(FAKE.format(body=body, before=before, help_code=help_code, **fields))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}{os.pathsep}/usr/bin{os.pathsep}/bin")
        monkeypatch.delenv("FREESURFER_HOME", raising=False)
        return path

    return make


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


@pytest.fixture
def save(tmp_path):
    """A head of 100 with a scalp of 300, a brain of 200 to 172, and noise around it, with the axes of IXI."""

    def make(name="scan", stripped=False):
        points = np.stack(np.indices(SHAPE), axis=-1) - [12, 14, 10]
        distance = np.linalg.norm(points / [9, 11, 8], axis=-1)
        data = np.random.default_rng(0).uniform(0, 9, SHAPE) * (not stripped)
        data += (100.0 + 200.0 * (distance > 0.9)) * ((distance < 1) & (distance >= 0.7) & (not stripped))
        data += (200.0 - 40 * distance) * (distance < 0.7)
        nib.save(nib.Nifti1Image(data.astype(np.float32), TO_WORLD), tmp_path / f"{name}.nii.gz")
        return tmp_path / f"{name}.nii.gz"

    return make


def table_of(**files):
    rows = [{"scan": scan, "file": str(file), "participant": scan, "split": "train"} for scan, file in files.items()]
    return pd.DataFrame(rows).assign(mask="", problem="")


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def biased(strength=0.35):
    """Two tissues with noise in an ellipsoid, a smooth bias field, and the mask of the ellipsoid."""
    points = (np.stack(np.indices((40, 48, 40)), axis=-1) - [19.5, 23.5, 19.5]) / [17, 21, 17]
    inside = np.linalg.norm(points, axis=-1) < 1
    tissue = np.where(np.sin(9 * points[..., 0]) * np.sin(8 * points[..., 1]) * np.sin(7 * points[..., 2]) > 0, 100, 60)
    clean = (tissue + np.random.default_rng(0).normal(0, 3, tissue.shape)) * inside
    field = np.exp(strength * (points @ [0.6, 1.0, -0.5] - 0.8 * (points**2).sum(axis=-1)))
    return clean.astype(np.float32), field, inside


def unevenness(array, clean, inside):
    """Standard deviation of the log ratio to the clean image."""
    return np.log(array[inside] / clean[inside]).std()


@pytest.fixture
def n4():
    pytest.importorskip("SimpleITK")


def test_a_smooth_field_is_corrected(n4):
    clean, field, inside = biased()
    found = external_tools.correct_bias_field((clean * field).astype(np.float32), inside, 2.0)
    assert found.dtype == np.float32 and found.shape == clean.shape
    before, after = (unevenness(array, clean, inside) for array in (clean * field, found))
    assert before > 0.2 and after < before / 10
    flat = external_tools.correct_bias_field(clean, inside, 2.0)
    assert unevenness(flat, clean, inside) < 0.02


def test_the_field_is_corrected_at_full_resolution(n4):
    """N4 reads every second voxel; a checkerboard at full resolution must survive."""
    clean, field, inside = biased()
    fine = clean * (1 + 0.2 * (np.indices(clean.shape).sum(axis=0) % 2))
    found = external_tools.correct_bias_field((fine * field).astype(np.float32), inside, 2.0)
    assert unevenness(found, fine, inside) < unevenness(fine * field, fine, inside) / 4


def test_equal_scans_give_equal_bits_and_the_correction_is_recorded(n4, save, tmp_path):
    first, second = (preprocessing.prepare(save(), bias_field="n4", **GRID) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    plain = preprocessing.prepare(save(), **GRID)
    assert first[2]["bias_field"].startswith("n4 ") and plain[2]["bias_field"] == "none"
    assert np.abs(first[0] - plain[0]).max() > 0.01
    qc = preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", bias_field="n4", **GRID)
    assert qc["bias_field"].tolist() == [first[2]["bias_field"]]


def test_a_scan_below_zero_is_refused_by_n4(n4, save):
    path = save()
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata() - 1000, image.affine), path)
    with pytest.raises(scans.BadScan, match="no bias field: only 0 voxels of the foreground are above 0, N4 needs 100"):
        preprocessing.prepare(path, bias_field="n4", **GRID)


def test_without_simpleitk_the_error_names_the_extra(save, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(
        external_tools.MissingTool, match=r"needs SimpleITK: pip install 'neuromf\[n4\]', or set volumes.bias"
    ):
        preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", bias_field="n4", **GRID)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tool", "skull_strip", "version", "command"),
    [
        ("mri_synthstrip", "synthstrip", "of unknown version", "-i scan.nii.gz -o brain.nii.gz -m mask.nii.gz"),
        ("hd-bet", "hd-bet", "2", "-i scan.nii.gz -o brain.nii.gz --save_bet_mask -device cpu --disable_tta"),
        ("hd-bet-1", "hd-bet", "1", "-i scan.nii.gz -o brain.nii.gz -s 1 -device cpu -mode fast -tta 0"),
    ],
)
def test_a_tool_strips_the_skull_and_is_recorded(install, save, tmp_path, tool, skull_strip, version, command):
    install(tool)
    qc = preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip=skull_strip, **GRID)
    assert qc[["status", "stripped_by"]].values.tolist() == [["accepted", f"{skull_strip} {version}"]]
    assert calls(tmp_path) == [command]
    volume, to_world = nifti.read_volume(qc["volume"][0])
    points = nib.affines.apply_affine(to_world, np.argwhere(volume > 0))
    native = nib.affines.apply_affine(np.linalg.inv(TO_WORLD), points) - [12, 14, 10]
    assert (np.linalg.norm(native / [9, 11, 8], axis=-1) < 0.7).all() and len(points) > 1000
    assert qc["foreground_ml"][0] == pytest.approx(len(points) * 0.064, rel=0.05)  # percentile 0 becomes 0


@pytest.mark.parametrize(
    ("device", "tool", "skull_strip", "expected"),
    [
        ("cuda", "mri_synthstrip", "synthstrip", "-m mask.nii.gz -g"),
        ("cuda", "hd-bet", "hd-bet", "--save_bet_mask -device cuda"),
        ("cuda", "hd-bet-1", "hd-bet", "-s 1 -device 0"),
    ],
)
def test_the_device_is_passed_to_the_tool(install, save, tmp_path, device, tool, skull_strip, expected):
    install(tool)
    preprocessing.prepare_shard(
        table_of(s=save()), tmp_path / "out", skull_strip=skull_strip, skull_strip_device=device, **GRID
    )
    assert calls(tmp_path)[0].endswith(expected)


def test_versions_of_synthstrip_are_read(install, tmp_path, monkeypatch):
    install("mri_synthstrip", before="version = '1.6'", as_name="synthstrip-docker")
    assert str(external_tools.find_skull_stripper("synthstrip")) == "synthstrip 1.6"
    install("mri_synthstrip", before="version = '1'")
    assert str(external_tools.find_skull_stripper("synthstrip")) == "synthstrip 1"
    (tmp_path / "build-stamp.txt").write_text("freesurfer-linux-7.4.1\n")
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path))
    assert str(external_tools.find_skull_stripper("synthstrip")) == "synthstrip freesurfer-linux-7.4.1"


def test_a_tool_gets_the_axes_of_mni(install, save, tmp_path):
    install("hd-bet", body="assert nib.aff2axcodes(nib.load('scan.nii.gz').affine) == ('R', 'A', 'S')")
    qc = preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip="hd-bet", **GRID)
    assert qc["status"].tolist() == ["accepted"]


def test_only_raw_scans_without_a_mask_are_skull_stripped(install, save, tmp_path):
    install("mri_synthstrip")
    image = nib.load(save("masked"))
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image((image.get_fdata() > 50).astype(np.uint8), image.affine), mask)
    table = table_of(masked=save("masked"), already=save("already", stripped=True), raw=save("raw"))
    table.loc[0, "mask"] = str(mask)
    settings = {"skull_strip": "synthstrip", "already_stripped": "detect", **GRID}
    qc = preprocessing.prepare_shard(table, tmp_path / "out", **settings)
    assert qc["stripped_by"].tolist() == ["mask", "already", "synthstrip of unknown version"]
    assert len(calls(tmp_path)) == 1
    assert qc["foreground_ml"][0] > 2 * qc["foreground_ml"][2] == 2 * qc["foreground_ml"][1]


@pytest.mark.parametrize("already_stripped", ["auto", "never"])
def test_a_scan_without_background_is_stripped_if_a_tool_is_set(install, save, tmp_path, already_stripped):
    """Air of 0 may come from a defacing tool: the user asked for a brain, and gets one."""
    install("mri_synthstrip")
    settings = {"skull_strip": "synthstrip", "already_stripped": already_stripped, **GRID}
    qc = preprocessing.prepare_shard(table_of(s=save("s", stripped=True)), tmp_path / "out", **settings)
    assert qc["stripped_by"].tolist() == ["synthstrip of unknown version"] and len(calls(tmp_path)) == 1


FAILURES = {
    "fails": (
        "print('reading'); sys.exit('no brain found here')",
        "ended with 1; last line of its output: no brain found here",
    ),
    "dies": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with -9; last line of its output: none"),
    "fails late": (
        "nib.save(nib.load('scan.nii.gz'), 'mask.nii.gz'); print('out of memory'); sys.exit(3)",
        "ended with 3; last line of its output: out of memory",
    ),
    "writes nothing": ("print('all is well'); sys.exit(0)", "wrote no mask; last line of its output: all is well"),
    "writes nonsense": (
        "open('mask.nii.gz', 'w').write('nonsense'); sys.exit(0)",
        "wrote an unusable mask, unreadable: mask.nii.gz cannot be read as NIfTI",
    ),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_scan_on_which_a_tool_fails_is_excluded(install, save, tmp_path, how):
    body, message = FAILURES[how]
    install("mri_synthstrip", body=f"if len(open({str(tmp_path / 'calls')!r}).readlines()) == 1:\n    {body}")
    table = table_of(bad=save("bad"), good=save("good"))
    qc = preprocessing.prepare_shard(table, tmp_path / "out", skull_strip="synthstrip", **GRID)
    assert qc["status"].tolist() == ["quarantined", "accepted"]
    assert qc["reason"][0].startswith(f"skull stripping failed: synthstrip of unknown version {message}")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


def test_an_empty_mask_of_a_tool_is_attributed_to_it(install, save, tmp_path):
    install(
        "mri_synthstrip",
        body="nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), 'u1'), np.eye(4)), 'mask.nii.gz'); sys.exit()",
    )
    qc = preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip="synthstrip", **GRID)
    assert qc["reason"][0].startswith("empty mask: no voxel of the mask of synthstrip of unknown version above 0")


def test_a_tool_over_its_time_limit_is_killed_with_its_children(install, save, tmp_path):
    child = tmp_path / "child"
    install("mri_synthstrip").write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {child}\nwait\n")  # starts at once
    start = time.monotonic()
    qc = preprocessing.prepare_shard(
        table_of(s=save()), tmp_path / "out", skull_strip="synthstrip", skull_strip_timeout_s=4, **GRID
    )
    assert time.monotonic() - start < 60
    assert qc["reason"][0].endswith("took over 4 s, the limit volumes.skull_strip_timeout_s")
    state, deadline = Path(f"/proc/{child.read_text().strip()}/stat"), time.monotonic() + 20
    while state.exists() and " Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)  # a killed process ends when it next gets the processor
    assert not state.exists() or " Z " in state.read_text()


def test_a_full_disk_in_a_tool_stops_the_run(install, save, tmp_path):
    install("mri_synthstrip", body="sys.exit('OSError: [Errno 28] No space left on device')")
    with pytest.raises(OSError, match="No space left on device, reported by synthstrip") as caught:
        preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip="synthstrip", **GRID)
    assert caught.value.errno == errno.ENOSPC and not list((tmp_path / "out").iterdir())


def test_the_temporary_folder_is_removed(install, save, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(external_tools.tempfile, "tempdir", str(scratch))
    install("mri_synthstrip", body="sys.exit('no')")
    preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip="synthstrip", **GRID)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("skull_strip", "message"),
    [
        (
            "synthstrip",
            "volumes.skull_strip is synthstrip, but no mri_synthstrip or synthstrip-docker or synthstrip-singularity "
            "is on the PATH; get it from FreeSurfer 7.3 or later, or a container: "
            "https://surfer.nmr.mgh.harvard.edu/docs/synthstrip/; or give brain masks in cohort.folder.masks, "
            "or set volumes.skull_strip to none",
        ),
        (
            "hd-bet",
            "volumes.skull_strip is hd-bet, but no hd-bet is on the PATH; get it from pip install hd-bet, in a",
        ),
    ],
)
def test_a_missing_tool_stops_the_script_before_any_scan(nothing_installed, save, tmp_path, skull_strip, message):
    participants.write_table(table_of(s=save()), tmp_path / "participants.tsv")
    config = json.dumps({"n_shards": 1, "volumes": {"skull_strip": skull_strip, **GRID}})
    arguments = ["--participants", str(tmp_path / "participants.tsv"), "--shard", "0", "--config", config]
    with pytest.raises(SystemExit) as caught:
        prepare_script.main([*arguments, "--out", str(tmp_path / "out")])
    assert str(caught.value).startswith(message) and not (tmp_path / "out").exists()


def test_an_unknown_or_broken_tool_stops_the_shard(install, save, tmp_path):
    install("mri_synthstrip", help_code=3, as_name="hd-bet")
    with pytest.raises(external_tools.MissingTool, match=r"hd-bet is no known version of HD-BET: --help ended with 3"):
        preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip="hd-bet", **GRID)
    install("mri_synthstrip").write_bytes(b"\x00 no program")
    with pytest.raises(
        external_tools.MissingTool, match="mri_synthstrip cannot be run .*; install it again, or give brain"
    ):
        preprocessing.prepare_shard(table_of(s=save()), tmp_path / "out", skull_strip="synthstrip", **GRID)
