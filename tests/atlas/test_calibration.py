"""Calibration: exact toys of both errors, the temperature, and what the interface refuses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from neuromf.data.brain_grid import brain_grid
from neuromf.metrics import calibration
from neuromf.metrics.calibration import LEVELS, Predictions


def toy(factor=1.0, split="val", seed=0, shape=(40, 2000)):
    """Targets from N(mean, true variance); the predicted variance is `factor` times the true one."""
    random = np.random.default_rng(seed)
    mean, variance = random.uniform(0, 0.3, shape), random.uniform(0.002, 0.02, shape)
    target = mean + np.sqrt(variance) * random.standard_normal(shape)
    return Predictions(mean, factor * variance, target, split)


def known_ece(factor):
    """Regression ECE of predictions whose variance is `factor` times the true one."""
    inside = 2 * norm.cdf(np.sqrt(factor) * norm.ppf((1 + LEVELS) / 2)) - 1
    return np.abs(inside - LEVELS).mean()


@pytest.mark.critical
def test_A43_errors_of_calibrated_predictions_are_small():
    assert len(LEVELS) == 19 and np.allclose(LEVELS[[0, -1]], [0.05, 0.95])
    assert calibration.regression_ece(toy()) < 0.02
    assert calibration.event_ece(toy()) < 0.02


@pytest.mark.critical
@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_A43_a_wrong_variance_has_its_known_error(factor):
    assert calibration.regression_ece(toy(factor)) == pytest.approx(known_ece(factor), abs=0.003)
    assert known_ece(2.0) == pytest.approx(0.1136, abs=0.0001)


@pytest.mark.critical
def test_A43_the_event_form_is_the_binned_difference_of_probability_and_frequency():
    probability = np.repeat([0.2, 0.8], 750)
    event = np.concatenate([np.arange(750) % 10 < 4, np.arange(750) % 10 < 8])  # frequencies .4 and .8
    assert calibration.binned_ece(probability, event, 2) == pytest.approx(0.1)
    assert calibration.N_BINS == 15
    shifted = toy()
    assert calibration.event_ece(replace(shifted, mean=shifted.mean + 0.05)) > 0.05


@pytest.mark.critical
def test_A44_the_temperature_recovers_a_planted_factor_and_lowers_the_error():
    validation, test = toy(1 / 1.5**2), toy(1 / 1.5**2, "test", seed=1)
    s = calibration.fit_temperature(validation)
    assert s == pytest.approx(1.5, rel=0.01)
    assert calibration.regression_ece(test.scaled(s)) < 0.02 < calibration.regression_ece(test)
    near = [calibration.negative_log_likelihood(validation.scaled(c * s)) for c in (0.99, 1.0, 1.01)]
    assert near[1] < min(near[0], near[2])


@pytest.mark.critical
def test_A44_the_temperature_is_applied_above_the_bar_alone():
    assert calibration.chosen_temperature(toy(2.0)) == pytest.approx(1 / np.sqrt(2), rel=0.01)
    slightly = toy(1.3)
    assert 0.02 < calibration.regression_ece(slightly) < calibration.APPLY_ABOVE
    assert calibration.chosen_temperature(slightly) == 1.0


@pytest.mark.critical
def test_A43_training_maps_are_refused():
    with pytest.raises(ValueError, match="calibration is evaluated on val or test; got 'train'"):
        toy(split="train")
    with pytest.raises(ValueError, match="fitted to val; got 'test'"):
        calibration.fit_temperature(toy(split="test"))
    with pytest.raises(ValueError, match="fitted to val; got 'test'"):
        calibration.constant_variance(toy(split="test"))


def test_a_mask_selects_voxels_near_foci():
    grid = brain_grid("6mm")
    focus = grid.centres_mm[5000]
    near = calibration.near_foci(focus[None], grid)
    distance = np.linalg.norm(grid.centres_mm - focus, axis=1)
    assert np.array_equal(near, distance <= 12) and 1 < near.sum() <= 33
    whole = toy(shape=(2, grid.n_voxels))
    wrong = np.where(near, 4.0, 1.0) * whole.variance
    masked = Predictions(whole.mean, wrong, whole.target, "test", np.broadcast_to(near, wrong.shape))
    everywhere = replace(masked, mask=None)
    assert calibration.regression_ece(everywhere) < 0.02 < 0.1 < calibration.regression_ece(masked)
    with pytest.raises(ValueError, match="the mask excludes every voxel"):
        replace(masked, mask=np.zeros_like(wrong, bool))


def test_rows_hold_both_splits_with_and_without_temperature():
    rows = calibration.calibration_rows(toy(4.0), toy(4.0, "test", seed=2))
    assert [(row["split"], round(row["temperature"], 2)) for row in rows] == [
        ("val", 1.0), ("val", 0.5), ("test", 1.0), ("test", 0.5)]  # fmt: skip
    assert all(row["applied"] for row in rows)
    for plain, scaled in (rows[:2], rows[2:]):
        assert scaled["ece"] < 0.02 < plain["ece"] and scaled["sharpness"] == pytest.approx(
            plain["sharpness"] / 2, rel=0.02
        )
        assert scaled["nll"] < min(plain["nll"], scaled["nll_constant"])


def test_negative_log_likelihood_is_that_of_scipy():
    one = toy(shape=(3, 50))
    expected = -norm.logpdf(one.target, one.mean, np.sqrt(one.variance)).mean()
    assert calibration.negative_log_likelihood(one) == pytest.approx(expected)
