"""Skull stripping by deepbet: brains of real heads, and errors that say what is missing."""

import builtins
import os
import re
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromf.data import deepbet, external_tools, nifti, preprocessing, scans

REAL = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
REAL_SCANS = pytest.mark.skipif(
    not (REAL / "ixi_t1_2mm").is_dir(), reason=f"no real scans in {REAL}; set NEUROMF_REAL_DATA to their folder"
)


@pytest.fixture
def stripper():
    for module in ("cc3d", "fill_voids", "deepbet"):
        pytest.importorskip(module, reason="pip install 'neuromf[strip]'")
    return external_tools.find_skull_stripper("deepbet")


def dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def heads(pattern):
    return sorted(REAL.glob(pattern))


@REAL_SCANS
def test_the_brain_of_a_real_head_is_that_of_its_parcellation(stripper, tmp_path):
    """Dice of 54 heads: 0.975 to 0.985 (docs/method.md)."""
    head = heads("ixi_t1_2mm/T1/*.nii.gz")[45]
    labels = nib.load(str(head).replace("T1/", "dlmuse/").replace("-T1.", "-DLMUSE."))
    brain = nib.as_closest_canonical(labels).get_fdata() > 0
    mask = external_tools.brain_mask(stripper, scans.read_scan(head))
    assert dice(mask.get_fdata() > 0, brain) > 0.97
    table = pd.DataFrame([{"scan": "s", "participant": "s", "file": str(head), "mask": "", "split": "", "problem": ""}])
    qc = preprocessing.prepare_shard(table, tmp_path, spacing_mm=2.0, shape=(80, 96, 80), skull_strip="deepbet")
    assert qc["stripped_by"].tolist() == ["deepbet 1.0.2"] and qc["coverage"].tolist() == [1.0]
    assert qc["foreground_ml"][0] == pytest.approx(brain.sum() * 0.008, rel=0.05)
    assert (nifti.read_volume(tmp_path / "s.nii.gz")[0] == 0).mean() > 0.6


@REAL_SCANS
@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "ml"),
    [("ixi_t1_native/raw/*.nii.gz", (1200, 1700)), ("lgg_flair_lesion/TCGA_DU_5871/*FLAIR.nii.gz", (900, 1900))],
)
def test_a_native_scan_and_a_flair_have_the_volume_of_a_brain(stripper, pattern, ml):
    (head,) = heads(pattern)
    mask = external_tools.brain_mask(stripper, scans.read_scan(head))
    volume = (mask.get_fdata() > 0).sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    assert ml[0] < volume < ml[1]


def test_a_scan_without_a_brain_is_excluded(stripper, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("Not enough foreground to calculate bounding box")

    monkeypatch.setattr(deepbet, "segment", fail)
    scan = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4))
    message = "skull stripping failed: deepbet 1.0.2 ended with AssertionError: Not enough foreground to calculate"
    with pytest.raises(scans.BadScan, match=message):
        external_tools.brain_mask(stripper, scan)


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_an_error_of_the_machine_is_not_the_fault_of_the_scan(stripper, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(deepbet, "segment", fail)
    with pytest.raises(type(error)):
        external_tools.brain_mask(stripper, nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)))


@pytest.mark.parametrize("module", ["cc3d", "fill_voids"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, module):
    real_import = builtins.__import__

    def missing(name, *arguments, **settings):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real_import(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        external_tools.MissingTool, match=r"volumes.skull_strip is deepbet, but No module named .*: pip "
    ):
        external_tools.find_skull_stripper("deepbet")


def test_deepbet_itself_may_be_missing(stripper, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(deepbet.metadata, "distribution", absent)
    message = re.escape("No module named 'deepbet': pip install 'neuromf[strip]'; or give brain masks")
    with pytest.raises(external_tools.MissingTool, match=message):
        external_tools.find_skull_stripper("deepbet")


def test_other_weights_are_refused_before_they_are_loaded(stripper, monkeypatch):
    """A TorchScript archive holds code."""
    monkeypatch.setattr(deepbet, "WEIGHTS", {"model.pt": "0" * 64})
    deepbet._extraction.cache_clear()
    with pytest.raises(external_tools.MissingTool, match=r"model.pt, have SHA-256 de8ee7c6\w+, expected 0{64}"):
        external_tools.find_skull_stripper("deepbet")
    with pytest.raises(ValueError, match="the weights of deepbet"):
        deepbet._extraction("cpu")
