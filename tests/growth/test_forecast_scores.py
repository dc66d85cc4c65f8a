"""Scores of forecasts against hand values, and the decision rule on planted and on null cases."""

import numpy as np
import pytest
from scipy import integrate, stats

from neuromf.metrics import forecast

# crps and interval score


def test_G62_crps_of_a_gaussian_is_its_integral():
    for actual, mean, sd in ((0.0, 0.0, 1.0), (1.7, 0.4, 0.3), (-2.0, 1.0, 2.5)):
        found, _ = integrate.quad(
            lambda x, a=actual, m=mean, s=sd: (stats.norm.cdf(x, m, s) - (x >= a)) ** 2, -30, 30, points=[actual]
        )
        assert forecast.crps_gaussian(actual, mean, sd) == pytest.approx(found, abs=1e-7)
    assert forecast.crps_gaussian(0.0, 0.0, 1.0) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi))


def test_G62_interval_score_is_the_width_and_forty_times_the_distance_outside():
    found = forecast.interval_score([0.5, -0.1, 1.3], [0, 0, 0], [1, 1, 1], alpha=0.05)
    np.testing.assert_allclose(found, [1.0, 1 + 40 * 0.1, 1 + 40 * 0.3])


def test_G62_scores_of_a_hand_made_table():
    actual, mean, sd = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]), np.full(3, 0.4)
    found = forecast.score(actual, mean, sd, np.array([0.0, 1.0, 1.0]), ["A", "B", "C"])
    assert found["r2"] == pytest.approx(1 - 1 / 2) and found["skill"] == pytest.approx(1 - 1 / 6)
    assert found["mae"] == pytest.approx(1 / 3) and found["cov95"] == pytest.approx(2 / 3)
    assert found["median_ape"] == pytest.approx(0.0) and np.isnan(found["r_patient"])
    with pytest.raises(ValueError, match="forecast 1 is no Gaussian: mean 2.0, standard deviation 0.0"):
        forecast.score(actual, mean, np.array([1.0, 0.0, 1.0]), mean, ["A", "B", "C"])


def test_G62_pit_is_uniform_and_coverage_nominal_for_calibrated_forecasts_alone():
    random = np.random.default_rng(0)
    mean, sd = random.normal(size=4000), random.uniform(0.2, 2, 4000)
    actual = mean + sd * random.normal(size=4000)
    assert stats.kstest(forecast.pit(actual, mean, sd), "uniform").pvalue > 0.01
    assert forecast.coverage(actual, mean, sd, 0.8) == pytest.approx(0.8, abs=0.02)
    assert stats.kstest(forecast.pit(actual, mean, 0.5 * sd), "uniform").pvalue < 1e-6


def test_G62_correlation_within_patients_needs_three_forecasts():
    patients = ["A"] * 3 + ["B"] * 2
    found = forecast.correlation_within(np.array([1.0, 2, 3, 0, 1]), np.array([2.0, 4, 6, 9, 0]), patients)
    assert found == pytest.approx(1.0)


# decisions


def errors(seed, n=60, gain=0.0):
    random = np.random.default_rng(seed)
    reference = random.gamma(2, 0.5, n)
    return np.maximum(reference * (1 - gain) + 0.3 * random.normal(size=n), 0.0), reference, 2 * reference


def test_G66_p_of_a_null_case_is_uniform():
    def null(seed):
        random = np.random.default_rng(seed)
        a, b = random.gamma(2, 0.5, (2, 30))
        return forecast.sign_flip_p(a, b, seed=seed)

    p = [null(seed) for seed in range(80)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.14


def test_G66_a_planted_gain_is_detected_and_earned():
    model, reference, locf = errors(0, gain=0.4)
    found = forecast.decide(model, reference, locf)
    assert found["earned"] and found["p"] < 0.001 and 0 < found["low"] < found["gain"] < found["high"]
    worse = forecast.decide(reference, model, locf)
    assert not worse["earned"] and worse["high"] < 0 and worse["p"] < 0.001


def test_G66_equal_models_earn_nothing():
    _, reference, locf = errors(1)
    assert forecast.decide(reference, reference, locf) == {
        "gain": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "earned": False,
    }  # fmt: skip


def test_G66_bca_interval_is_that_of_a_bootstrap_over_patients():
    model, reference, locf = errors(2, n=200, gain=0.1)
    low, high = forecast.bca_interval(model, reference, locf)
    random = np.random.default_rng(5)
    rows = random.integers(200, size=(4000, 200))
    gains = forecast.skill_gain(model[rows], reference[rows], locf[rows])
    np.testing.assert_allclose((low, high), np.percentile(gains, [2.5, 97.5]), atol=0.01)
