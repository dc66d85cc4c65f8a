"""External tests: dense maps, tasks of the NeuroStore extract, queries, comparisons by NiMARE, figure F2."""

import json
import time

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from atlas.evaluation_helpers import LinearAtlas

from neuromf.atlas import baselines, comparators, dense_maps, external, query
from neuromf.atlas.kernel_maps import kernel_map
from neuromf.atlas.prepared import Prepared
from neuromf.data.brain_grid import brain_grid
from neuromf.data.statistical_maps import StatisticalMap, read_hcp_contrasts
from neuromf.figures import atlas_ladder

GRID = brain_grid("6mm")


@pytest.fixture(scope="module")
def atlas(mock_studies):
    return LinearAtlas(mock_studies, GRID)


@pytest.fixture(scope="module")
def fitted(mock_studies):
    return baselines.fit(mock_studies.take(mock_studies.rows("train")), GRID)


def dense(points, n_subjects=10, name="map", height=8.0):
    """A dense map with Gaussian blobs around points."""
    values = height * kernel_map(np.array(points, float), GRID, 14.0)
    return StatisticalMap(name, values, np.ones(GRID.n_voxels, bool), n_subjects)


@pytest.mark.critical
def test_A67_peaks_of_a_dense_map_are_its_planted_centres():
    centres = [(-36.0, -24.0, 54.0), (36.0, -24.0, 54.0), (0.0, 0.0, 60.0)]
    found = dense_maps.find_peaks(dense(centres), GRID)
    assert sorted(map(tuple, found)) == sorted(centres)
    low = dense_maps.find_peaks(dense(centres, height=1.0), GRID)
    assert len(low) == 1  # below the threshold: the maximum alone


@pytest.mark.critical
def test_A67_a_planted_topic_ranks_first_for_the_peaks_of_its_map(mock_studies, atlas, fitted):
    train = mock_studies.take(mock_studies.rows("train"))
    words = mock_studies.topic_words
    for topic in (words.index("motor"), words.index("vision")):
        values = (fitted.topic_rates[topic] / fitted.topic_rates[topic].max() * 8).astype(np.float32)
        maps = dense_maps.peak_maps([StatisticalMap("x", values, values >= 0, 1)], GRID)
        pca = baselines.fit_pca(dense_maps_of(train), 12)
        ranking = dense_maps.topic_ranking(pca.transform(dense_maps_of(train)), train.topics, pca.transform(maps)[0])
        assert dense_maps.best_rank(ranking, [topic]) <= 2, words[topic]
        assert sorted(ranking) == list(range(len(words)))
    assert dense_maps.topics_about(words, dense_maps.MOTOR) == [words.index("motor")]
    assert dense_maps.best_rank(ranking, []) is None


def dense_maps_of(studies):
    from neuromf.atlas.kernel_maps import kernel_maps

    return kernel_maps(studies, GRID, 12.0, dtype=np.float32)


@pytest.mark.critical
def test_A81_each_pain_map_has_rows_with_baselines_and_intervals_resample_laboratories():
    points = [(-36.0, -24.0, 54.0), (12.0, 18.0, 30.0)]
    maps = [dense(points, n, f"pain_{k}") for k, n in enumerate([25, 25, 9, 9, 9, 12])]
    right, wrong = maps[0].values.astype(float), dense([(0.0, -60.0, 0.0)]).values.astype(float)
    table = dense_maps.compare(maps, {"right": right, "wrong": wrong}, lambda peaks: peaks[::-1] * 2, GRID)
    assert len(table) == 6 * 4 and set(table["group"]) == {0, 1, 2}
    mean = table.groupby("model")["r"].mean()
    assert mean["right"] == pytest.approx(1) and mean["peaks_smoothed"] > 0.95 and mean["wrong"] < 0.1
    summary = dense_maps.grouped_interval(table.assign(r=np.where(table["group"] == 0, 1.0, 0.0))).set_index("model")
    row = summary.loc["right"]
    assert row["r"] == pytest.approx(2 / 6) and row["low"] == 0 and row["high"] >= 2 / 3 and row["n_groups"] == 3


def test_correlation_is_read_where_the_map_has_data():
    a = np.random.default_rng(0).random(GRID.n_voxels)
    valid = np.arange(GRID.n_voxels) < 500
    broken = StatisticalMap("x", np.where(valid, 2 * a, 0).astype(np.float32), valid, 1)
    assert dense_maps.correlation(a, broken) == pytest.approx(1, abs=1e-5)
    assert np.isnan(dense_maps.correlation(np.ones(GRID.n_voxels), broken))


@pytest.mark.critical
def test_A81_absent_sources_are_skipped_with_the_reason(mock_studies, atlas, tmp_path):
    found = external.evaluate_external(atlas, Prepared(mock_studies, GRID), tmp_path)
    assert "maps.tsv" in found["pain"]["skipped"] and "skipped" in found["button_press"]
    assert "yours to supply" in found["hcp"]["skipped"]
    assert (
        "NEUROMF_REAL_DATA" in external.evaluate_external(atlas, Prepared(mock_studies, GRID), None)["pain"]["skipped"]
    )
    controls = [row for row in found["task"] if row["features"] == "n_foci"]
    assert {"cross", "few"} <= {row["protocol"] for row in controls} and controls[0]["n_groups"] > 250


@pytest.mark.critical
def test_A81_the_pain_maps_give_fourteen_rows_per_model(mock_studies, atlas, real_folder):
    found = external.pain(atlas, Prepared(mock_studies, GRID), real_folder.parent / "statmaps")
    table = pd.DataFrame(found["maps"])
    assert (table.groupby("model").size() == 14).all() and table["group"].nunique() == 7
    summary = pd.DataFrame(found["summary"]).set_index("model")
    assert summary.loc["peaks_smoothed", "r"] > 0.3 and (summary["low"] <= summary["r"]).all()


@pytest.mark.informational
def test_A82_the_contrast_probe_reads_tasks_from_user_files_and_refuses_without(tmp_path):
    with pytest.raises(ValueError, match="yours to supply"):
        read_hcp_contrasts(None, GRID)
    random = np.random.default_rng(0)
    centres = {"motor": (-36, -24, 54), "language": (-54, -24, 0)}
    for task, centre in centres.items():
        for k in range(6):
            points = [np.array(centre) + random.normal(size=3) * 3, random.normal(size=3) * 20]
            volume = GRID.volume(dense(points).values)
            nib.save(nib.Nifti1Image(volume, GRID.affine), tmp_path / f"{task}_{k}.nii.gz")
    maps = read_hcp_contrasts(tmp_path, GRID)
    table = dense_maps.contrast_probe(maps, lambda x: x @ random.normal(size=(x.shape[1], 20)), GRID)
    rows = table.set_index("features")["balanced_accuracy"]
    assert rows["latents"] > 0.8 > rows["n_foci"] and set(table["n"]) == {12} and set(table["n_groups"]) == {6}


@pytest.mark.informational
def test_A70_a_query_has_all_fields_the_planted_topic_and_takes_less_than_two_seconds(mock_studies, atlas, fitted):
    from neuromf.simulation.foci import topic_centres

    index = query.Index.build(mock_studies, GRID, fitted.global_rate)
    topic = mock_studies.topic_words.index("pain")
    point = topic_centres(len(mock_studies.topic_words), 0)[topic][0]
    begun = time.perf_counter()
    found = query.voxel_to_insight(index, point, atlas)
    assert time.perf_counter() - begun < 2
    assert set(found) == {"point_mm", "n_studies", "region", "topics", "latents", "coactivation", "novelty", "nearest",
                          "trend"}  # fmt: skip
    assert found["topics"][0]["topic"] == "pain" and found["topics"][0]["z"] > 1.8
    assert len(found["latents"]) == atlas.z_dim and len(found["nearest"]) == 5
    slopes = [abs(row["slope"]) for row in found["latents"]]
    assert slopes == sorted(slopes, reverse=True)
    axis, voxel = found["latents"][0]["axis"], GRID.mask_index(point)[0]
    exact = atlas.components[axis, voxel] * atlas.std[axis]  # the decoder is linear
    assert found["latents"][0]["slope"] == pytest.approx(exact, rel=1e-3)
    distances = np.linalg.norm(mock_studies.points - point, axis=1)
    assert found["nearest"][0]["distance_mm"] == pytest.approx(distances.min(), abs=1e-3)
    assert found["n_studies"] == len(set(mock_studies.study_of_focus[distances <= 10]))
    with pytest.raises(ValueError, match="outside the brain mask"):
        query.voxel_to_insight(index, (0, 0, 200))


@pytest.mark.informational
def test_A70_regions_are_those_of_the_harvard_oxford_atlas():
    assert query.region(np.array([-38.0, -22.0, 56.0])) in ("Precentral Gyrus", "Postcentral Gyrus")
    assert query.region(np.array([0.0, -90.0, 10.0])) in ("Cuneal Cortex", "Supracalcarine Cortex", "Occipital Pole")
    assert query.region(np.array([0.0, 0.0, 10.0])) == "" and len(query.REGIONS) == 48


@pytest.mark.informational
def test_a_planted_trend_is_recovered():
    year = np.repeat(np.arange(2000, 2020), 500)
    reports = np.random.default_rng(0).random(len(year)) < 0.1 + 0.01 * (year - 2000)
    found = query._trend(year.astype(float), reports)
    assert found["per_year"] == pytest.approx(0.01, abs=3 * found["standard_error"]) and found["standard_error"] < 1e-3


@pytest.mark.critical
def test_A68_nimare_finds_the_planted_topic_and_its_rates_are_scored_on_test_studies(mock_studies, fitted):
    topic = mock_studies.topic_words.index("pain")
    model = {topic: fitted.topic_rates[topic] - fitted.global_rate}
    table = comparators.compare(mock_studies, GRID, fitted, [topic], model_maps=model, most=12)
    rows = table.set_index("method")
    assert list(rows.index) == ["topic_kde", "mkda_chi2", "ale", "cbmr"] and (rows["topic"] == "pain").all()
    assert (rows["r_kde"][1:] > 0.4).all() and (rows["r_model"] > 0.3).all()
    assert rows.loc["topic_kde", "r_kde"] == pytest.approx(1) and rows["weight"].between(0, 1).all()
    tests = mock_studies.take(mock_studies.rows("test"))
    assert (rows["n_test"] == (tests.topics.argmax(1) == topic).sum()).all()


def test_figure_f2_draws_both_panels_with_the_stamp(tmp_path):
    def row(value):
        return {"value": value, "low": value - 0.05, "high": value + 0.04}

    conditional = {"uniform": row(-13.37), "global": row(-12.75), "topics": row(-12.58), "ridge": row(-12.59),
                   "model": {**row(-12.55), "weight": 0.8}, "difference": row(0.03), "best": "topics",
                   "n_studies": 200, "n_foci": 6000}  # fmt: skip
    completion = {"global": row(-12.74), "own": row(-12.28), "model": {**row(-12.27), "weight": 0.9},
                  "difference": row(0.01), "best": "own", "n_studies": 200, "n_foci": 3000}  # fmt: skip
    results = {"bits": {"conditional": conditional, "completion": completion}, "provenance": {"scale": "mock"}}
    (tmp_path / "r.json").write_text(json.dumps(results))
    atlas_ladder.render(results=tmp_path / "r.json", out=tmp_path / "fig_2", study="default")
    facts = json.loads((tmp_path / "fig_2.json").read_text())
    assert "Mock data" in facts["statement"] and facts["study"] == "default"
    figure = atlas_ladder.draw(results["bits"], facts["statement"])
    texts = [text.get_text() for ax in figure.axes for text in ax.findobj(lambda a: hasattr(a, "get_text"))]
    assert "−12.550" in texts and "C-VAE minus topic KDEs:\n+0.030 [−0.020, +0.070]" in texts
