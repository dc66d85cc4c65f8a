"""Privacy audit: planted copies, also mirrored ones, raise the alarm; new and smoothed brains do not."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from neuromf.data.nifti import write_volume
from neuromf.data.preprocessing import prepare
from neuromf.figures.privacy import draw
from neuromf.metrics import privacy, table
from workflow_scripts import fig_privacy as privacy_script

REAL_SCANS = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data")) / "ixi_t1_2mm"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def message(error):
    return str(error.value)


def brains(n, seed, side=16):
    """Different smooth volumes (n, I, J, K) in [0, 1] inside a ball."""
    noise = np.random.default_rng(seed).standard_normal((n, side, side, side))
    smooth = gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    inside = np.linalg.norm(np.indices((side,) * 3) - (side - 1) / 2, axis=0) < 0.45 * side
    return np.clip((0.5 + 2 * smooth) * inside, 0, 1)


@pytest.fixture(scope="module")
def scans():
    """Training, test and new brains of one population."""
    return brains(60, 0), brains(30, 1), brains(30, 2)


@pytest.fixture(scope="module")
def views(scans):
    """Training and test brains with their mirror images."""
    return privacy.mirrored_block_means(scans[0], 4), privacy.mirrored_block_means(scans[1], 4)


def audited(fake, views):
    return privacy.audit(privacy.block_means(fake, 4), *views, n_permutations=200)


# --- distances ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 256])
def test_nearest_agrees_with_all_distances(rng, block):
    query, reference = 3 + rng.standard_normal((20, 6)), 3 + rng.standard_normal((15, 6))
    found = privacy.neighbours(query, reference, k=1, block=block)
    everything = cdist(query, reference)
    np.testing.assert_array_equal(found["index"][:, 0], everything.argmin(axis=1))
    np.testing.assert_allclose(found["distance"][:, 0], everything.min(axis=1), rtol=1e-12)


def test_neighbours_are_different_scans_by_their_nearest_view(rng):
    query, reference = rng.standard_normal((9, 5)), rng.standard_normal((7, 3, 5))
    found = privacy.neighbours(query, reference, k=2)
    everything = np.linalg.norm(query[:, None, None] - reference, axis=-1)
    order = everything.min(axis=2).argsort(axis=1)[:, :2]
    np.testing.assert_array_equal(found["index"], order)
    np.testing.assert_allclose(found["distance"], np.take_along_axis(everything.min(axis=2), order, 1))
    np.testing.assert_array_equal(found["view"], np.take_along_axis(everything.argmin(axis=2), order, 1))
    np.testing.assert_allclose(privacy.nearest_distance_of_views(reference, query), everything.min(axis=(0, 2)))


def test_a_copy_far_from_the_origin_is_at_distance_zero(rng):
    reference = 1e6 + rng.standard_normal((9, 4))
    found = privacy.neighbours(reference[[4, 2]], reference, k=1)
    np.testing.assert_array_equal(found["distance"], 0)
    np.testing.assert_array_equal(found["index"][:, 0], [4, 2])


def test_block_means_are_in_order_and_mirrored_ones_belong_to_the_mirror_image():
    volumes = np.arange(2 * 4 * 2 * 6, dtype=np.float32).reshape(2, 4, 2, 6)
    got = privacy.block_means(volumes, 2)
    assert got.shape == (2, 2 * 1 * 3)
    assert got[1, 4] == volumes[1, 2:4, 0:2, 2:4].mean()
    both = privacy.mirrored_block_means(volumes, 2)
    np.testing.assert_array_equal(both[:, 0], got)
    np.testing.assert_array_equal(both[:, 1], got.reshape(2, 2, 3)[:, ::-1].reshape(2, 6))


def test_copies_change_ratio_and_fractions_and_new_draws_do_not(rng):
    train, test, fresh = np.split(rng.standard_normal((300, 5)), 3)
    copied, _ = privacy.audit(train + 1e-3, train, test, n_permutations=1)
    honest, _ = privacy.audit(fresh, train, test, n_permutations=1)
    assert copied["nearest_train_ratio"] < 0.01 and copied["closer_to_train_fraction"] == 1
    assert 0.8 < honest["nearest_train_ratio"] < 1.2 and 0.35 < honest["closer_to_train_fraction"] < 0.65
    assert honest["nearest_train_distance"] == np.median(cdist(fresh, train).min(axis=1))
    assert honest["nearest_train_distance_test"] == np.median(cdist(test, train).min(axis=1))
    few, _ = privacy.audit(fresh, train, test[:50], n_permutations=1)
    assert few["closer_to_train_expected"] == pytest.approx(2 / 3) and few["closer_than_test_expected"] == 1 / 51
    below = cdist(fresh, train).min(axis=1) < cdist(test[:50], train).min()
    assert few["closer_than_test_fraction"] == below.mean()


# --- statistics --------------------------------------------------------------------------------------


def test_the_auc_is_that_of_scikit_learn_and_its_interval_that_of_a_bootstrap(rng):
    train, test = rng.gamma(3, 1, 80), rng.gamma(4, 1, 50)
    got = privacy.membership(train, test)
    labels = np.repeat([1, 0], [80, 50])
    assert got["auc"] == pytest.approx(roc_auc_score(labels, -np.concatenate([train, test])))
    resampled = [privacy.membership(rng.choice(train, 80), rng.choice(test, 50))["auc"] for _ in range(600)]
    np.testing.assert_allclose([got["low"], got["high"]], np.percentile(resampled, [2.5, 97.5]), atol=0.015)
    assert got["p"] < 0.01 and privacy.membership(test, train)["p"] > 0.9


def test_membership_at_equal_distances_is_chance():
    got = privacy.membership(np.ones(5), np.ones(4))
    assert got == {"auc": 0.5, "low": 0.5, "high": 0.5, "p": 1.0}
    assert privacy.membership(np.zeros(5), np.ones(4))["auc"] == 1


def test_memorisation_p_values_are_uniform_without_copies():
    """Ratios of points without structure in d dimensions are uniform to the power 1 / d."""
    rng = np.random.default_rng(3)
    p = [privacy.memorisation_p(rng.uniform(size=1) ** (1 / 6), rng.uniform(size=5) ** (1 / 6))[0] for _ in range(800)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    square = rng.uniform(size=(4000, 2))
    first, second = np.sort(cdist(square[:400], square[400:]), axis=1)[:, :2].T
    p = privacy.memorisation_p((first / second)[:200], (first / second)[200:])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_memorisation_p_of_copies_and_constant_ratios():
    usual = np.array([0.9, 0.8, 0.95])
    np.testing.assert_array_equal(privacy.memorisation_p(np.array([0.0, 1.0]), usual), [0, 1])
    np.testing.assert_array_equal(privacy.memorisation_p(np.array([0.5, 1.0]), np.ones(3)), [0, 1])


def test_ratio_p_is_small_for_nearer_sets_and_uniform_otherwise():
    rng = np.random.default_rng(0)
    assert privacy.ratio_p(rng.gamma(9, 1, 40), rng.gamma(9, 2, 40), 200, 0) == 1 / 201
    p = [privacy.ratio_p(*rng.gamma(9, 1, (2, 21)), 60, 0) for _ in range(100)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


# --- the audit ---------------------------------------------------------------------------------------


def test_a_fifth_of_copies_is_detected_and_identified(scans, views):
    train, _, fresh = scans
    noise = 0.05 * np.random.default_rng(5).standard_normal(train[:6].shape)
    fake = np.concatenate([fresh[:24], np.clip(train[10:16] + noise, 0, 1)])
    row, nearest = audited(fake, views)
    assert row["memorised_fraction"] == pytest.approx(0.2) and row["memorised_p"] < 1e-4 and row["privacy_alarm"] == 1
    pairs = privacy.closest_pairs(nearest, 6)
    assert dict(zip(pairs["index"], pairs["train"], strict=True)) == dict(
        zip(range(24, 30), range(10, 16), strict=True)
    )
    assert (pairs["view"] == 0).all() and (pairs["relative"] < 0.5).all()


def test_a_mirrored_copy_is_a_copy(scans, views):
    train, _, fresh = scans
    fake = np.concatenate([fresh[:29], train[[7], ::-1]])
    row, nearest = audited(fake, views)
    assert row["memorised_fraction"] == pytest.approx(1 / 30) and row["privacy_alarm"] == 1
    assert privacy.closest_pairs(nearest, 1)[["index", "train", "view", "distance"]].to_numpy().tolist() == [
        [29, 7, 1, 0]
    ]
    blind, _ = privacy.audit(privacy.block_means(fake, 4), views[0][:, 0], views[1][:, 0], n_permutations=2)
    assert blind["memorised_fraction"] == 0


def test_new_brains_smoothed_brains_and_noise_are_no_copies(scans, views):
    fresh = scans[2]
    smoothed = 0.5 * fresh + 0.5 * fresh.mean(0)
    for fake in (fresh, smoothed, np.random.default_rng(0).random(fresh.shape)):
        row, _ = audited(fake, views)
        assert row["memorised_fraction"] == 0 and row["privacy_alarm"] == 0
    row, _ = audited(smoothed, views)
    assert row["nearest_train_ratio"] < 0.9 and row["nearest_train_ratio_p"] < 0.01  # near, but no alarm


def test_mixtures_of_training_scans_reveal_membership(scans, views):
    train, _, fresh = scans
    fake = 0.5 * train[:30] + 0.5 * train[30:]  # mixtures of pairs: no copies, but near to their members
    row, _ = audited(fake, views)
    assert row["membership_auc"] > 0.8 and row["membership_low"] > 0.5 and row["privacy_alarm"] == 1
    assert audited(fresh, views)[0]["membership_low"] < 0.5 < audited(fresh, views)[0]["membership_high"]


def test_false_alarms_are_as_rare_as_the_level():
    alarms = 0
    for seed in range(150):
        x = np.random.default_rng(seed).standard_normal((80, 8))
        alarms += privacy.audit(x[:20], x[20:60], x[60:], n_permutations=1)[0]["privacy_alarm"]
    assert alarms <= 6  # 1.5 are expected at a level of 0.01; more than 6 come once in 500 times


def test_rows_have_the_columns_of_the_metrics_table(scans, views):
    row, _ = audited(scans[2], views)
    rows = pd.DataFrame(privacy.rows(row, 30, "pooled-4")).set_index("metric")
    auc = [row[f"membership_{name}"] for name in ("auc", "low", "high")]
    assert rows.loc["membership_auc", ["value", "low", "high"]].tolist() == auc
    assert {"nearest_train_ratio", "closer_to_train_fraction", "memorised_fraction", "privacy_alarm"} <= set(rows.index)
    assert (rows["n"] == 30).all() and "membership_low" not in rows.index


@pytest.mark.slow
@pytest.mark.skipif(not REAL_SCANS.is_dir(), reason=f"no real scans in {REAL_SCANS}")
def test_copies_of_real_scans_are_detected_and_new_participants_are_not():
    volumes = []
    for scan in sorted((REAL_SCANS / "T1").glob("*.nii.gz"))[:60]:
        mask = REAL_SCANS / "dlmuse" / scan.name.replace("-T1.", "-DLMUSE.")
        volumes.append(prepare(scan, spacing_mm=4.0, shape=(40, 48, 40), mask=mask)[0])
    train, test, fresh = np.stack(volumes[:30]), np.stack(volumes[30:45]), np.stack(volumes[45:])
    views, rng = (
        (privacy.mirrored_block_means(train, 2), privacy.mirrored_block_means(test, 2)),
        np.random.default_rng(0),
    )
    copied = np.clip(train[:3, ::-1] + 0.03 * rng.standard_normal(train[:3].shape), 0, 1)
    honest, planted = (privacy.block_means(fake, 2) for fake in (fresh, np.concatenate([fresh[:12], copied])))
    assert privacy.audit(honest, *views)[0]["privacy_alarm"] == 0
    row, _ = privacy.audit(planted, *views)
    assert row["memorised_fraction"] == pytest.approx(0.2) and row["privacy_alarm"] == 1


# --- the figure --------------------------------------------------------------------------------------


def test_the_figure_has_each_pair_its_difference_and_both_sets(scans, views):
    row, nearest = audited(scans[2], views)
    pairs = [(scans[2][k], scans[0][k]) for k in range(2)]
    fig = draw(pairs, ["a", "b"], nearest, row, 4.0)
    axes = [ax for part in fig.subfigs for ax in part.axes]
    images = [ax.images[0] for ax in axes if ax.images]
    assert len(images) == 6
    for k in range(2):
        ours, theirs, difference = (image.get_array() for image in images[3 * k : 3 * k + 3])
        np.testing.assert_allclose(difference, ours - theirs)
    assert {image.get_clim() for image in images} == {(0.0, 1.0), (-0.5, 0.5)}
    texts = " ".join(text.get_text() for ax in axes for text in ax.texts)
    assert f"membership AUC {row['membership_auc']:.2f}" in texts
    legend = next(ax.get_legend() for ax in axes if ax.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["test participants (30)", "generated (30)"]


def test_the_script_draws_the_mirrored_copy_from_the_files_of_the_evaluation(scans, tmp_path):
    train, test, fresh = scans[0][:12], scans[1][:10], scans[2][:8].copy()
    fresh[5] = train[3, ::-1]
    files = {}
    for name, volumes in {"train": train, "test": test, "samples": fresh}.items():
        files[name] = [str(tmp_path / f"{name}-{n}.nii.gz") for n in range(len(volumes))]
        for path, volume in zip(files[name], volumes, strict=True):
            write_volume(path, volume, np.eye(4))
    views = (privacy.mirrored_block_means(volumes) for volumes in (train, test))
    row, nearest = privacy.audit(privacy.block_means(fresh), *views)
    each = [files[name][k] for name, k in zip(nearest["set"], nearest["index"], strict=True)]
    nearest.assign(file=each, train=[files["train"][k] for k in nearest["train"]]).to_csv(tmp_path / "nearest.csv")
    rows = pd.DataFrame(privacy.rows(row, 8, privacy.IMAGE_FEATURES)).assign(**table.set_columns(1))
    rows.to_csv(tmp_path / "metrics.csv", index=False)
    config = json.dumps({"n_pairs": 2, "spacing_mm": 4.0, "study": "test"})
    inputs = ["--nearest", tmp_path / "nearest.csv", "--metrics", tmp_path / "metrics.csv", "--config", config]
    privacy_script.main([str(argument) for argument in [*inputs, "--out", tmp_path / "privacy"]])
    facts = json.loads((tmp_path / "privacy.json").read_text())
    assert facts["audit"] == pytest.approx(row) and facts["audit"]["privacy_alarm"] == 1 and facts["study"] == "test"
    first = facts["closest"][0]
    assert (first["file"], first["train"], first["view"]) == (files["samples"][5], files["train"][3], 1)
    assert (tmp_path / "privacy.pdf").stat().st_size > 5000 and (tmp_path / "privacy.png").is_file()


def test_error_messages():
    with pytest.raises(ValueError) as error:
        privacy.block_means(np.zeros((1, 4, 6, 4)), 4)
    assert message(error) == "factor must divide the shape (4, 6, 4); got 4: crop or pad the volumes"
    with pytest.raises(ValueError) as error:
        privacy.nearest_distance(np.zeros((1, 4)), np.zeros((1, 3)))
    assert message(error) == "query and reference must have the same number of features; got 4 and 3"
    with pytest.raises(ValueError) as error:
        privacy.audit(np.zeros((3, 4)), np.zeros((1, 4)), np.zeros((3, 4)))
    assert message(error) == (
        "train must have at least 2 scans, with the views and features of test; got shapes (1, 1, 4) and (3, 1, 4)"
    )
    with pytest.raises(ValueError) as error:
        privacy.check_views(np.zeros(4), "train")
    assert message(error) == "train must have shape (N, F) or (N, views, F), at least one scan; got (4,)"
