"""Yearly clouds, forecasters on planted drifts, and the bias of the Frechet distance."""

import numpy as np
import pytest

from neuromf.atlas import temporal
from neuromf.atlas.temporal import YEARS, yearly_clouds
from neuromf.metrics.distances.frechet import frechet_distance


def planted(step, n=80, dim=3, seed=0):
    """Clouds of independent normal latents; the mean of the first moves by `step` per year."""
    years = np.repeat(YEARS, n)
    z = np.random.default_rng(seed).standard_normal((len(years), dim))
    z[:, 0] += step * (years - YEARS[0])
    order = np.random.default_rng(1).permutation(len(years))
    return yearly_clouds(z[order], years[order])


@pytest.fixture(scope="module")
def drifting():
    return {one["forecaster"]: one for one in temporal.verdicts(temporal.forecast_scores(planted(1.0), repeats=4))}


@pytest.fixture(scope="module")
def standing():
    return {one["forecaster"]: one for one in temporal.verdicts(temporal.forecast_scores(planted(0.0), repeats=4))}


@pytest.mark.critical
def test_A52_years_are_complete_and_ascending():
    clouds = planted(0.0)
    assert clouds.years == tuple(range(1997, 2019)) and [len(cloud) for cloud in clouds.clouds] == [80] * 22
    assert clouds.summaries().shape == (22, 6)
    z, years = np.zeros((21, 2)), np.arange(1997, 2018)
    with pytest.raises(ValueError, match="have fewer than two studies"):
        yearly_clouds(z, years)


@pytest.mark.critical
def test_A53_the_forecaster_beats_persistence_on_a_planted_drift(drifting):
    assert drifting["gru"]["verdict"] == "better" and drifting["gru"]["high"] < 0
    assert drifting["gru"]["score"] < 0.6 * drifting["persistence"]["score"]
    assert drifting["linear"]["verdict"] == "better"  # the truth is a line


@pytest.mark.critical
def test_A53_the_forecaster_ties_without_drift(standing):
    assert standing["gru"]["verdict"] == "tie" and standing["gru"]["low"] <= 0 <= standing["gru"]["high"]


@pytest.mark.critical
def test_A53_a_year_is_forecast_from_earlier_years_alone():
    clouds = planted(0.3)
    seen = []
    temporal.forecast_scores(clouds, repeats=1, forecasters={"spy": lambda h, seed: seen.append(len(h)) or h[-1]})
    assert seen == [17, 18, 19, 20, 21]


@pytest.mark.critical
@pytest.mark.parametrize("n", [40, 400])
def test_A54_identical_clouds_are_at_distance_zero_after_correction(n):
    random = np.random.default_rng(0)
    pairs = [random.standard_normal((2, n, 8)) for _ in range(12)]
    raw = np.mean([frechet_distance(a, b) for a, b in pairs])
    unbiased = np.mean([temporal.unbiased_frechet(a, b, 4) for a, b in pairs])
    assert raw > 0.05 and abs(unbiased) < 0.15 * raw


@pytest.mark.critical
def test_A54_a_planted_distance_is_recovered():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 2000, 4)) + np.array([[[0.0]], [[0.5]]])
    assert temporal.unbiased_frechet(a, b, 4) == pytest.approx(4 * 0.25, abs=0.1)


@pytest.mark.critical
def test_A54_without_bias_control_clouds_without_drift_seem_to_move():
    """The planted fault: raw distances of successive years, and forecasts of any kind, look like a change."""
    rows = temporal.drift(planted(0.0, n=60, dim=6), repeats=3)
    raw, floor, unbiased = (np.mean([row[name] for row in rows]) for name in ("raw", "floor", "unbiased"))
    assert raw > 0.15 and floor > raw  # a distance below its floor is no drift
    assert abs(unbiased) < 0.2 * raw
    moving = temporal.drift(planted(1.0, n=60, dim=6), repeats=3)
    assert np.mean([row["unbiased"] for row in moving]) == pytest.approx(1.0, abs=0.25)


def test_closed_forecasters_are_known():
    line = np.arange(12.0)[:, None] * np.array([[1.0, -2.0]])
    np.testing.assert_allclose(temporal.persistence(line), [11, -22])
    np.testing.assert_allclose(temporal.linear(line), [12, -24], atol=1e-9)
    np.testing.assert_allclose(temporal.smoothing(line), [11, -22])  # on a line the rate is 1
    np.testing.assert_allclose(temporal.smooth(np.array([[0.0], [1.0], [1.0]]), 0.5), [0.75])


def test_forecasts_are_equal_for_equal_seeds():
    history = planted(0.5).summaries()
    np.testing.assert_array_equal(temporal.gru(history, seed=3), temporal.gru(history, seed=3))
