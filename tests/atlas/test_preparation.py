"""Preparation: one code for three scales; files, licence, statement, digests; maps and schema; the choice of scale."""

import json

import numpy as np
import pandas as pd
import pytest
from atlas.atlas_helpers import REAL_DATA, SPACE

from neuromf.atlas.metadata import Schema
from neuromf.atlas.preparation import known_digests, prepare_studies, write_maps, write_schema
from neuromf.atlas.studies import read_studies, strata
from neuromf.config.atlas import Atlas
from neuromf.core.files import sha256
from neuromf.data.brain_grid import brain_grid
from neuromf.report.release.atlas_bundle import write_bundle

FILES = ["LICENSE.txt", "coordinate_log.json", "foci.npz", "scale.json", "studies.tsv", "topics.npz"]
VALUES = {"space": SPACE, "split": [0.7, 0.15, 0.15], "seed": 0}


def prepare(out, scale, **changed):
    return prepare_studies(out, scale=scale, data_root=str(REAL_DATA), **{**VALUES, **changed})


@pytest.fixture(scope="module")
def mock_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mock")
    prepare(folder, "mock")
    return folder


def scale_of(folder):
    return json.loads((folder / "scale.json").read_text())


def test_A84_the_mock_writes_the_files_and_states_what_it_is(mock_folder):
    assert sorted(path.name for path in mock_folder.iterdir()) == FILES
    scale = scale_of(mock_folder)
    assert scale["scale"] == scale["source"] == "mock" and scale["statement"].startswith("Mock data")
    assert 80 < scale["n_studies"] <= 100 and sum(scale["splits"].values()) == scale["n_studies"]
    assert "attribution" not in scale


def test_A02_the_same_seed_gives_the_same_files(mock_folder, tmp_path):
    prepare(tmp_path / "again", "mock")
    for name in FILES:
        if name != "foci.npz" and name != "topics.npz":
            assert sha256(tmp_path / "again" / name) == sha256(mock_folder / name), name
    assert np.array_equal(read_studies(tmp_path / "again").points, read_studies(mock_folder).points)
    prepare(tmp_path / "other", "mock", seed=1)
    assert sha256(tmp_path / "other/studies.tsv") != sha256(mock_folder / "studies.tsv")


@pytest.mark.slow
def test_A84_subset_and_full_go_through_the_same_code(real_folder, tmp_path):
    subset, full = (prepare(tmp_path / scale, scale) for scale in ("subset_1k", "full"))
    assert len(subset) == 1000 and len(full) > 8000
    for scale in ("subset_1k", "full"):
        assert sorted(path.name for path in (tmp_path / scale).iterdir()) == FILES
        values = scale_of(tmp_path / scale)
        assert values["scale"] == scale and values["source"] == "neurosynth"
        assert "ODbL" in values["licence"] and "Neurosynth" in values["attribution"]
        assert "ODC Open Database License" in (tmp_path / scale / "LICENSE.txt").read_text()
    assert set(subset.table["id"]) <= set(full.table["id"])
    whole = strata(full.table)
    part = whole[full.table["id"].isin(subset.table["id"])]
    fractions = [np.bincount(found, minlength=25) / len(found) for found in (whole, part)]
    assert np.abs(fractions[0] - fractions[1]).max() < 0.02
    assert scale_of(tmp_path / "full")["statement"] == ""


def test_A88_a_release_of_the_mock_is_refused_and_that_of_full_data_states_its_licence(mock_folder, tmp_path):
    out = (tmp_path / "release/manifest.json", tmp_path / "release/bundle.tar")
    out[0].parent.mkdir()
    with pytest.raises(ValueError, match=r"refused are studies \(mock\)"):
        write_bundle(mock_folder, [], *out)
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "LICENSE.txt").write_text("ODbL 1.0")
    values = {**scale_of(mock_folder), "scale": "full", "source": "neurosynth", "licence": "ODbL 1.0"}
    (folder / "scale.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="licence .ODbL 1.0. and attribution must be stated"):
        write_bundle(folder, [], *out)
    (folder / "scale.json").write_text(json.dumps({**values, "attribution": "Neurosynth"}))
    card = tmp_path / "card.json"
    card.write_text('{"scale": "subset_1k"}')
    with pytest.raises(ValueError, match=r"card.json \(subset_1k\)"):
        write_bundle(folder, [card], *out)
    card.write_text('{"scale": "full"}')
    write_bundle(folder, [card], *out)
    manifest = json.loads(out[0].read_text())
    assert manifest["sha256"]["card.json"] == sha256(card) and "ODbL" in manifest["licence"]


def test_A01_digests_are_those_of_manifest_and_downloads(tmp_path):
    folder = tmp_path / "neurosynth_v7"
    folder.mkdir()
    rows = [("neurosynth_v7/a.gz", "1"), ("neurosynth_v7/b.gz", "2"), ("other/c.gz", "3")]
    pd.DataFrame(rows, columns=["file", "sha256"]).to_csv(tmp_path / "MANIFEST.tsv", sep="\t", index=False)
    (folder / "b.gz.json").write_text('{"sha256": "4"}')
    (folder / "notes.json").write_text('{"name": "x"}')
    assert known_digests(folder) == {"a.gz": "1", "b.gz": "4"}


def test_maps_and_schema_are_written(mock_folder, tmp_path):
    write_maps(mock_folder, tmp_path / "9.npy", grid="6mm", fwhm_mm=9.0, combine="noisy_or")
    maps = np.load(tmp_path / "9.npy")
    assert maps.dtype == np.float16 and maps.shape == (len(read_studies(mock_folder)), brain_grid("6mm").n_voxels)
    write_schema(mock_folder, tmp_path / "schema.json")
    values = json.loads((tmp_path / "schema.json").read_text())
    assert Schema.from_json(values).width == values["width"] and values["scale"] == "mock"


def test_A02_the_scale_is_chosen_by_the_data_that_are_there(tmp_path, monkeypatch):
    auto, data = Atlas(scale="auto"), tmp_path / "data"
    monkeypatch.setenv("NEUROMF_REAL_DATA", str(data))
    assert auto.chosen_scale(tmp_path) == "mock"
    (data / "neurosynth_v7").mkdir(parents=True)
    assert auto.chosen_scale(tmp_path) == "full" and Atlas(scale="mock").chosen_scale(tmp_path) == "mock"
    monkeypatch.delenv("NEUROMF_REAL_DATA")
    assert auto.root(tmp_path) == tmp_path / "../shared/data"
    assert Atlas(scale="auto", data_root="data").chosen_scale(tmp_path) == "full"
    with pytest.raises(ValueError, match="atlas.split must sum to 1"):
        Atlas(scale="auto", split=(0.7, 0.2, 0.2))
