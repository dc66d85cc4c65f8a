"""Forecast of an image: states, masks, and the comparison with the last scan carried forward."""

import numpy as np
import pandas as pd
import pytest

from neuromf.growth import image_forecast as forecast
from neuromf.growth.partition import Partition

PARTS = Partition.of_widths({"vol": 1, "loc": 3}, 6)
SIDE = 10
DISTANCE = np.linalg.norm(np.indices((SIDE,) * 3) - 4.5, axis=0)


def ball(radius):
    return DISTANCE < radius


def decode(z):
    """A bright ball whose radius is z_0 + 3."""
    return np.stack([3.0 * ball(3 + one[0]) for one in z])


def cohort(rates, n_visits=3):
    """Patients whose radius grows linearly in time; the residual is noise."""
    random, scans, masks = np.random.default_rng(0), {}, {}
    for number, rate in enumerate(rates):
        for visit in range(n_visits):
            z = random.normal(size=6)
            z[0] = rate * visit / max(n_visits - 1, 1)
            name = f"p{number}-{visit}"
            scans[name] = {"mu": z, "t_months": np.array(6.0 * visit), "patient": np.array(f"p{number}"),
                           "split": np.array("test")}  # fmt: skip
            masks[name] = ball(3 + z[0])
    return scans, masks


def compared(rates, **options):
    scans, masks = cohort(rates, **options)
    visits = forecast.last_visits(scans, "test")
    states = forecast.extrapolated(scans, visits, PARTS)
    last = np.stack([scans[names[-2]]["mu"] for names in visits])
    found = {"line": decode(states) > 1.5, "last image": decode(last) > 1.5}
    return forecast.compare_masks(visits, found, scans, masks), scans, visits, states


def test_G69_a_linear_change_of_supervised_parts_is_extrapolated_and_the_residual_is_carried_forward():
    _, scans, visits, states = compared([2.0, -1.0])
    for names, state in zip(visits, states, strict=True):
        assert state[0] == pytest.approx(scans[names[-1]]["mu"][0])
        assert state[4:] == pytest.approx(scans[names[-2]]["mu"][4:])


def test_G69_a_forecast_of_growing_tumours_exceeds_the_last_scan():
    table, *_ = compared([2.0, 1.6, 1.8, 2.2, 1.4, 1.5, 1.9])
    found = forecast.verdict(table)
    assert found["dice"]["line"] == pytest.approx(1) and found["log_volume_error"]["line"] < 1e-9
    assert [(row["reference"], row["outcome"]) for row in found["comparisons"]] == [
        ("last mask", "exceeds"), ("last image", "exceeds")]  # fmt: skip
    row = found["comparisons"][0]
    assert 0 < row["low"] <= row["gain"] <= row["high"] and row["p"] < 0.05
    assert " exceeds the last scan carried forward" in found["statement"] and "p = 0.0" in found["statement"]
    assert found["dice"]["last image"] == found["dice"]["last mask"] < 0.9


def test_G69_a_forecast_that_does_not_exceed_says_so():
    table, *_ = compared([0.0, 0.0, 0.0])
    assert " does not differ from the last scan" in forecast.verdict(table)["statement"]
    assert (table["dice"] > 0.99).all()


def test_G69_a_forecast_that_is_worse_says_so():
    table, *_ = compared([1.0] * 7)
    swapped = table.assign(
        kind=table["kind"].map({"line": "last mask", "last mask": "line", "last image": "last image"})
    )
    row = forecast.verdict(swapped)["comparisons"][0]
    assert row["outcome"] == "is worse than" and row["high"] < 0 and row["p"] < 0.05


def test_G69_two_patients_are_too_few_for_a_verdict():
    row = forecast.verdict(compared([2.0, 2.0])[0])["comparisons"][0]
    assert row["gain"] > 0 and row["p"] > 0.05 and row["outcome"] == "does not differ from"


def test_G69_latents_of_the_ode_are_matched_by_patient(tmp_path):
    scans, _ = cohort([1.0, 2.0])
    visits = forecast.last_visits(scans, "test")
    np.savez(tmp_path / "z.npz", patient=np.array(["p1", "p0"]), z=np.array([[1.0], [0.0]]))
    assert forecast.ode_latents(tmp_path / "z.npz", scans, visits)[:, 0].tolist() == [0.0, 1.0]
    np.savez(tmp_path / "z.npz", patient=np.array(["p1"]), z=np.array([[1.0]]))
    with pytest.raises(ValueError, match="no forecast of patients p0: run the rule growth_latent_forecast"):
        forecast.ode_latents(tmp_path / "z.npz", scans, visits)


def test_G69_slices_go_through_the_largest_section_of_the_true_mass():
    scans, masks = cohort([1.0, 2.0])
    visits = forecast.last_visits(scans, "test")
    images = {name: 2.0 * mask for name, mask in masks.items()}
    decoded = {"line": np.stack([images[names[-1]] for names in visits])}
    found = forecast.slices(visits, images, masks, decoded)
    for k, names in enumerate(visits):
        assert found["truth_mask"][k].sum() == masks[names[-1]].sum((0, 1)).max()
        np.testing.assert_array_equal(found["truth"][k], found["line"][k])
        assert (found["last_mask"][k] <= found["truth_mask"][k]).all()
    assert found["scan"].tolist() == [names[-1] for names in visits]


def test_G69_one_earlier_visit_is_carried_forward_and_patients_with_one_scan_are_left_out():
    table, scans, visits, states = compared([1.0, 2.0], n_visits=2)
    assert [state.tolist() for state in states] == [scans[names[0]]["mu"].tolist() for names in visits]
    pd.testing.assert_series_equal(*(table.loc[table["kind"] == kind, "dice"].reset_index(drop=True)
                                     for kind in ("line", "last image")))  # fmt: skip
    scans["q-0"] = scans["p0-0"] | {"patient": np.array("q")}
    assert len(forecast.last_visits(scans, "test")) == 2 and forecast.last_visits(scans, "train") == []
