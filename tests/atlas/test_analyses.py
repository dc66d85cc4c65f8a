"""Analyses of latents as files: their parts, and latents of other studies."""

import json

import numpy as np
import pytest

from neuromf.atlas.analyses import pca_latents, write_analyses
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.studies import write_studies
from neuromf.data.brain_grid import brain_grid


@pytest.fixture(scope="module")
def folder(mock_studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyses")
    write_studies(mock_studies, folder / "studies", manifest="mock")
    maps = kernel_maps(mock_studies, brain_grid("6mm"), 12.0)
    np.save(folder / "maps.npy", maps)
    z = pca_latents(maps, mock_studies.rows("train"))[:, :4]
    np.savez(folder / "points.npz", mu=z, logvar=0 * z, id=mock_studies.table["id"].to_numpy(str))
    return folder


def test_models_are_compared_with_the_pca_of_maps(folder, monkeypatch):
    monkeypatch.setattr("neuromf.atlas.analyses.N_PCA", 6)
    write_analyses(folder / "studies", folder / "maps.npy", [folder / "points.npz"], folder / "out.json", n_boot=1)
    found = json.loads((folder / "out.json").read_text())
    assert found["scale"] == "mock" and found["statement"].startswith("Mock data")
    assert found["cca"]["points and pca"]["test"][0] == pytest.approx(1, abs=1e-3)
    assert found["cca"]["points and pca"]["p_values"][0] == pytest.approx(1 / 201)
    assert found["time"].keys() == found["clusters"].keys() == {"points", "pca"}
    assert [one["forecaster"] for one in found["time"]["pca"]["verdicts"]] == [
        "persistence",
        "linear",
        "smoothing",
        "gru",
    ]
    assert 0 <= found["clusters"]["pca"]["noise_fraction"] <= 1


def test_latents_of_other_studies_are_refused(folder, mock_studies):
    other = folder / "other.npz"
    np.savez(other, mu=np.zeros((len(mock_studies), 2)), id=mock_studies.table["id"].to_numpy(str)[::-1])
    with pytest.raises(ValueError, match="holds latents of other studies"):
        write_analyses(folder / "studies", folder / "maps.npy", [other], folder / "no.json")
