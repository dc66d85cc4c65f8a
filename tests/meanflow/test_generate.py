"""The packaged generator: its file, its volumes, and the command that draws them."""

import sys

import nibabel as nib
import numpy as np
import pytest

from neuromf.meanflow import packaged
from neuromf.meanflow.generate import generate
from neuromf.meanflow.run import load_run
from neuromf.vae import weights
from tools import brains


def test_the_packaged_file_is_small_and_names_no_participant():
    assert packaged.PACKAGED.stat().st_size <= 24e6
    run = load_run("packaged")
    assert run.shape == (4, 16, 20, 16) and set(run.stats) == set(packaged.STATS)
    assert len(run.u.prior.axes) < 100  # no rows of single participants


def test_volumes_are_brains_and_do_not_depend_on_how_many_are_drawn(tmp_path):
    three = generate(3, tmp_path / "three", seed=1, batch=2)
    assert three.shape == (3, 64, 80, 64) and three.min() >= 0 and three.max() <= 1
    brain = (three > 0.2).mean((1, 2, 3)) * 160 * 200 * 160 / 1000  # ml
    assert (brain > 900).all() and (brain < 2000).all()
    symmetry = [np.corrcoef(one.ravel(), one[::-1].ravel())[0, 1] for one in three]
    assert min(symmetry) > 0.9
    assert np.corrcoef(three.reshape(3, -1))[np.triu_indices(3, 1)].max() < 0.99  # different brains
    one = generate(1, tmp_path / "one", seed=1)
    np.testing.assert_allclose(one[0], three[0], atol=1e-3)  # files are float16
    np.testing.assert_allclose(nib.load(tmp_path / "one" / "00000.nii.gz").header.get_zooms(), 2.5)


def test_the_command_writes_volumes_and_a_contact_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["brains", str(tmp_path / "out"), "--n", "2"])
    brains.main()
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2 and (tmp_path / "out.png").stat().st_size > 10_000
    assert "2 volumes in" in capsys.readouterr().out


def test_a_missing_generator_names_the_study_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="it is made by studies/generator.yaml"):
        packaged.read_packaged(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds no run; expected a file of the rule pack_run"):
        packaged.read_packaged(weights.PACKAGED)
