"""Zeitgeist timeline: 22 frames from the latent time series, years without studies, drift, axes of training studies."""

import json

import numpy as np
import pytest
from atlas.training_helpers import run

from neuromf.atlas import timeline
from neuromf.figures import atlas_timeline


@pytest.fixture(scope="module")
def written(mock_studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("timeline")
    run(folder, mock_studies, train={"steps": 3, "lr": 2e-2})
    timeline.write_timeline(folder / "run/checkpoint", folder / "studies", folder / "t.npz", per_year=4,
                            projection="pca")  # fmt: skip
    with np.load(folder / "t.npz") as found:
        return folder, {name: found[name] for name in found.files}


def test_A55_there_is_one_frame_for_each_of_22_years(written, mock_studies):
    _, values = written
    assert values["years"].tolist() == list(range(1997, 2019))
    year = mock_studies.table["year"].to_numpy(int)
    assert values["n"].tolist() == [int((year == one).sum()) for one in range(1997, 2019)]
    known = values["n"] > 0
    np.testing.assert_allclose(values["maps"][known].sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(values["topics"][known].sum(1), 1, rtol=1e-4)
    assert not values["maps"][~known].any()
    assert np.unique(values["position_year"], return_counts=True)[1].max() <= 4


def test_A55_changes_are_about_the_mean_and_0_where_there_are_no_studies():
    maps, n = np.array([[1.0, 3.0], [3.0, 1.0], [0.0, 0.0]], np.float32), np.array([5, 5, 0])
    np.testing.assert_allclose(timeline.mean_change(maps, n), [[-1, 1], [1, -1], [0, 0]])
    topics = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0, 0, 0]])
    assert set(timeline.rising_topics(topics, np.array([1, 1, 1, 0]), 2)) == {0, 1}


def test_A55_the_axes_are_fitted_to_training_studies_alone():
    random = np.random.default_rng(0)
    z, train = random.standard_normal((60, 5)), np.arange(60) < 40
    moved = np.where(train[:, None], z, z + 50)
    np.testing.assert_array_equal(timeline.project(z, train, "pca")[:40], timeline.project(moved, train, "pca")[:40])
    with pytest.raises(ValueError, match="umap or pca; got 'tsne'"):
        timeline.project(z, train, "tsne")


def test_A54_the_drift_of_one_distribution_is_0_without_bias():
    random = np.random.default_rng(0)
    year = np.repeat(np.arange(2000, 2010), 60)
    found = timeline.drift_of(random.standard_normal((600, 8)), year)
    assert found["drift_raw"].mean() > 0.5 and abs(found["drift_unbiased"].mean()) < 0.25
    assert found["drift_year"].tolist() == list(range(2001, 2010))


def test_A55_the_figure_has_a_panel_per_year(written, tmp_path, monkeypatch):
    folder, panels, save = written[0], [], atlas_timeline.style.save

    def counted(figure, *args):
        panels.append(len(figure.axes))
        save(figure, *args)

    monkeypatch.setattr(atlas_timeline.style, "save", counted)
    atlas_timeline.render(timeline=folder / "t.npz", out=tmp_path / "fig_7", study="tiny")
    assert json.loads((tmp_path / "fig_7.json").read_text())["scale"] == "mock"
    assert (tmp_path / "fig_7.png").stat().st_size > 30_000
    assert panels == [22 + 1]
