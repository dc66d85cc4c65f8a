"""Classifier two-sample tests: exact values of trivial sets, chance for one distribution, invariances."""

import numpy as np
import pytest

from neuromf.metrics import two_sample
from neuromf.metrics.controls import halves

LOGISTIC, SVM = range(2)


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    monkeypatch.setattr(two_sample, "REPEATS", 3)


def normal(n, n_features, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, n_features)) + shift


def aucs(real, fake, **settings):
    return two_sample.classifier_aucs(real, fake, seed=[0, 0], **settings)


def value(rows, name):
    (found,) = [one["value"] for one in rows if one["metric"] == name]
    return found


# --- exact values ------------------------------------------------------------------------------------


def test_separate_sets_have_an_auc_of_one():
    np.testing.assert_array_equal(aucs(normal(20, 3, 0), normal(15, 3, 1, shift=100)), [1.0, 1.0])


def test_equal_constant_sets_have_an_auc_of_one_half():
    np.testing.assert_array_equal(aucs(np.ones((10, 4)), np.ones((12, 4))), [0.5, 0.5])


@pytest.mark.parametrize("n", [5, 7, 23])
def test_folds_have_equal_sizes(n):
    counts = np.bincount(two_sample.assign_folds(n, [0, 0, 0]))
    assert len(counts) == two_sample.FOLDS and counts.sum() == n and np.ptp(counts) <= 1


def test_pairs_are_held_out_together():
    x = normal(30, 2, 0)
    first, second = two_sample.ordered_sets(x, x + 10, paired=True)
    np.testing.assert_allclose(np.abs(first - second), 10)


# --- distributions -----------------------------------------------------------------------------------


def test_halves_of_one_distribution_are_told_apart_by_chance():
    x = normal(400, 64, 0)
    rows = two_sample.two_sample_rows(*(x[half] for half in halves(len(x))), "x")
    assert [one["metric"] for one in rows] == ["c2st_logistic", "c2st_svm"]
    for one in rows:
        assert 0.4 < one["value"] < 0.6 and one["low"] <= one["value"] <= one["high"] and one["n"] == 200


def test_more_features_than_volumes_are_no_better_than_chance():
    found = [
        two_sample.two_sample_rows(normal(48, 512, seed), normal(40, 512, 100 + seed), "x", seed=seed)
        for seed in range(3)
    ]
    for name in ("c2st_logistic", "c2st_svm"):
        assert 0.4 < np.mean([value(rows, name) for rows in found]) < 0.6


def test_shifted_sets_are_told_apart():
    x = normal(400, 64, 0)
    first, second = (x[half] for half in halves(len(x)))
    rows = two_sample.two_sample_rows(first, second + 0.5, "x")
    assert min(one["value"] for one in rows) > 0.95


def test_equal_means_and_covariances_are_told_apart_by_the_svm_alone():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 200)
    ring = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = aucs(normal(200, 2, 1), ring)
    assert 0.4 < found[LOGISTIC] < 0.6 and found[SVM] > 0.8


def test_versions_of_the_same_volumes_need_paired_folds():
    x = normal(60, 8, 0)
    y = x + 0.01 * normal(60, 8, 1)
    assert 0.35 < aucs(x, y, paired=True)[SVM] < 0.65
    assert aucs(x, y)[SVM] < 0.35  # the classifier has seen the other version of most held-out volumes


# --- invariances -------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_the_order_of_the_sets_does_not_matter(paired):
    x, y = normal(30, 6, 0), normal(30, 6, 1, shift=0.3)
    np.testing.assert_array_equal(aucs(x, y, paired=paired), aucs(y, x, paired=paired))


def test_the_order_of_the_volumes_does_not_matter():
    x, y, rng = normal(30, 6, 0), normal(25, 6, 1, shift=0.3), np.random.default_rng(2)
    np.testing.assert_array_equal(aucs(x, y), aucs(rng.permutation(x), rng.permutation(y)))
    order = rng.permutation(25)
    np.testing.assert_array_equal(aucs(x[:25], y, paired=True), aucs(x[:25][order], y[order], paired=True))


def test_rows_depend_on_the_seed_alone_and_average_slices():
    x, y = normal(30, 6, 0), normal(30, 6, 1, shift=0.3)
    first, again, other = (two_sample.two_sample_rows(x, y, "x", seed=seed) for seed in (0, 0, 1))
    assert first == again and first != other
    slices = [np.stack([one - 1, one + 1], axis=1) for one in (x, y)]
    for one, expected in zip(two_sample.two_sample_rows(*slices, "x"), first, strict=True):
        assert one["value"] == pytest.approx(expected["value"], abs=0.01)


# --- errors ------------------------------------------------------------------------------------------


def test_small_sets_have_no_rows():
    assert two_sample.two_sample_rows(normal(30, 6, 0), normal(4, 6, 1), "x") == []


def test_paired_sets_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="paired sets must have the same number of volumes; got 10 and 9"):
        aucs(normal(10, 3, 0), normal(9, 3, 1), paired=True)
