"""Morphometry: distances in closed form, intervals and permutation tests against SciPy, figure 8."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.linalg import sqrtm

from neuromf.figures import regions as regions_figure
from neuromf.metrics.anatomy import morphometry, tissues
from workflow_scripts import fig_8 as fig_8_script

FAST = {"n_boot": 50, "n_permutations": 50}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def real(rng):
    """Forty brains of three regions and their intracranial volume."""
    gm, ventricle = 600 + 50 * rng.standard_normal(40), 15 + 5 * rng.standard_normal(40)
    table = pd.DataFrame({"gm": gm, "ventricle": ventricle, "csf": 200 + 20 * rng.standard_normal(40)})
    return table.assign(intracranial=table.sum(axis=1))


def by_metric(rows):
    return pd.DataFrame(rows).set_index("metric")


def message(error):
    return str(error.value)


# --- distances ---------------------------------------------------------------------------------------


def test_the_distance_of_a_shift_is_the_shift_in_ml_and_in_standard_deviations(real):
    rows = by_metric(morphometry.compare(real, real.assign(gm=real["gm"] + 12.5), **FAST))
    sd = real["gm"].std()
    np.testing.assert_allclose(rows.loc["wasserstein_gm_ml", "value"], 12.5)
    np.testing.assert_allclose(rows.loc["wasserstein_gm_sd", ["value", "low"]] * sd, rows.loc["wasserstein_gm_ml", ["value", "low"]])  # fmt: skip  # noqa: E501
    assert rows.loc["wasserstein_ventricle_ml", "value"] == 0
    assert rows.loc["wasserstein_ventricle_ml", "p"] == 1


def test_the_distance_of_two_samples_is_the_area_between_their_quantiles(real, rng):
    fake = real.assign(gm=580 + 30 * rng.standard_normal(40))
    expected = np.abs(np.sort(real["gm"]) - np.sort(fake["gm"])).mean()
    rows = by_metric(morphometry.compare(real, fake, **FAST))
    assert rows.loc["wasserstein_gm_ml", "value"] == pytest.approx(expected, rel=1e-10)


def test_the_joint_distance_is_that_of_two_gaussians(rng):
    a = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 4)) + 5
    b = rng.standard_normal((50, 4)) @ rng.standard_normal((4, 4)) + 6
    mean, sd = a.mean(0), a.std(0, ddof=1)
    x, y = (a - mean) / sd, (b - mean) / sd
    s1, s2 = np.cov(x.T), np.cov(y.T)
    squared = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert morphometry.joint_distance(a, b) == pytest.approx(np.sqrt(squared), rel=1e-8)
    constant = np.hstack([a, np.full((60, 1), 3.0)]), np.hstack([b, np.full((50, 1), 4.0)])
    assert morphometry.joint_distance(*constant) == pytest.approx(np.sqrt(squared), rel=1e-8)
    assert np.isnan(morphometry.joint_distance(np.ones((5, 2)), np.zeros((5, 2))))


def test_the_joint_distance_is_between_relative_volumes(real):
    rows = by_metric(morphometry.compare(real, 1.3 * real, **FAST))
    assert rows.loc["wasserstein_joint", "value"] == pytest.approx(0, abs=1e-6)
    assert rows.loc["wasserstein_gm_sd", "p"] < 0.05 < rows.loc["wasserstein_joint", "p"]
    assert list(morphometry.relative_volumes(real.assign(brain=1.0)).shape) == [40, 3]


def test_the_joint_distance_detects_broken_correlations(rng):
    left = rng.standard_normal(300)
    twins = pd.DataFrame({"left": left, "right": left + 0.1 * rng.standard_normal(300)})
    broken = pd.DataFrame({"left": left, "right": rng.permutation(twins["right"])})
    rows = by_metric(morphometry.compare(twins, broken, **FAST))
    assert rows.loc["wasserstein_left_sd", "value"] == rows.loc["wasserstein_right_sd", "value"] == 0
    assert rows.loc["wasserstein_joint", "value"] > 4 * rows.loc["wasserstein_joint", "chance"]
    assert rows.loc["wasserstein_joint", "p"] < 0.05


# --- chance and intervals ----------------------------------------------------------------------------


def test_p_values_of_equal_populations_are_uniform_and_chance_is_their_mean_distance():
    rng, draws = np.random.default_rng(1), {"n_boot": 2, "n_permutations": 60, "seed": 0}
    both = [rng.standard_normal((2, 15)) for _ in range(120)]
    results = pd.DataFrame([morphometry.permutation_test(stats.wasserstein_distance, a, b, **draws) for a, b in both])
    assert stats.kstest(results["p"], "uniform").pvalue > 0.01
    assert results["chance"].mean() == pytest.approx(results["value"].mean(), rel=0.1)


def test_intervals_of_well_separated_sets_agree_with_theory(rng):
    a, b = rng.standard_normal(80), 5 + rng.standard_normal(80)
    row = morphometry.permutation_test(stats.wasserstein_distance, a, b, n_boot=400, n_permutations=20, seed=0)
    half = 1.96 * np.sqrt(a.var() / 80 + b.var() / 80)
    assert row["low"] == pytest.approx(row["value"] - half, abs=0.08)
    assert row["high"] == pytest.approx(row["value"] + half, abs=0.08)
    assert row == morphometry.permutation_test(stats.wasserstein_distance, a, b, n_boot=400, n_permutations=20, seed=0)


def test_the_interval_of_a_mean_agrees_with_scipy(rng):
    values = rng.standard_normal(50) ** 2
    (row,) = morphometry.mean_rows(pd.DataFrame({"betti_1": [*values, np.nan]}), n_boot=4000)
    ends = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert row["n"] == 50 and row["value"] == values.mean()
    np.testing.assert_allclose([row["low"], row["high"]], [ends.low, ends.high], rtol=0.05)


def test_brains_without_regions_are_left_out_and_counted(real):
    fake = real.copy()
    fake.iloc[:10] = np.nan
    rows = by_metric(morphometry.compare(real, fake, **FAST))
    assert rows.loc["segmented", "value"] == 0.75 and rows.loc["segmented", "n"] == 40
    assert rows.loc["segmented", "low"] < 0.75 < rows.loc["segmented", "high"]
    expected = stats.wasserstein_distance(real["gm"], real["gm"][10:])
    assert rows.loc["wasserstein_gm_ml", "value"] == expected and rows.loc["wasserstein_gm_ml", "n"] == 30


def test_too_few_brains_give_nan(real):
    rows = by_metric(morphometry.compare(real, real[:0], **FAST))
    assert rows["value"].isna().all() and rows.loc["wasserstein_joint", "n"] == 0
    three = by_metric(morphometry.compare(real, real[:3], **FAST))
    assert three.loc["wasserstein_gm_ml", ["value", "low", "high", "chance", "p"]].isna().all()


# --- per volume --------------------------------------------------------------------------------------


def test_asymmetry_is_the_difference_over_the_mean():
    table = pd.DataFrame({"left_ventricle": [3, 1, 2, 0.0], "right_ventricle": [1, 3, 2, 0.0]})
    got = morphometry.asymmetry(table)["asymmetry_ventricle"]
    np.testing.assert_allclose(got, [1, -1, 0, np.nan])


def test_betti_numbers_of_known_solids():
    z, y, x = np.indices((20, 20, 20)) - 9.5
    radius = np.sqrt(x**2 + y**2 + z**2)
    ball, shell = radius < 8, (radius < 8) & (radius > 4)
    ring = (np.sqrt(x**2 + y**2) - 6) ** 2 + z**2 < 4
    two = np.zeros((20, 20, 20), bool)
    two[:4, :4, :4] = two[10:14, 10:14, 10:14] = two[8, 0, 0] = True  # and debris
    corner = np.zeros((20, 20, 20), bool)
    corner[:4, :4, :4] = corner[4:8, 4:8, 4:8] = True
    handles = ball & ~((abs(x) < 1.5) & (abs(y) < 1.5)) & ~((abs(z) < 1.5) & (abs(y) < 1.5))
    table = tissues.topology(np.stack([ball, shell, ring, two, handles, corner, ~ball & False]).astype(float))
    expected = [[1, 0, 0], [1, 1, 0], [1, 0, 1], [2, 0, 0], [1, 0, 3], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(table[["betti_0", "betti_2", "betti_1"]], expected)


# --- figure 8 ----------------------------------------------------------------------------------------


def test_tidy_rows_are_one_per_brain_and_region(real):
    table = real[:3].copy()
    table.iloc[1] = np.nan
    rows = morphometry.tidy(table, "real", ["a", "b", "c"])
    assert list(rows.columns) == ["scan", "set", "region", "ml"]
    assert set(rows["scan"]) == {"a", "c"} and set(rows["region"]) == {"gm", "ventricle", "csf"}
    assert rows.query("scan == 'c' and region == 'gm'")["ml"].item() == real["gm"][2]
    with pytest.raises(ValueError, match="scans must name each of the 3 rows; got 2"):
        morphometry.tidy(table, "real", ["a", "b"])


@pytest.fixture
def sets(real):
    scans = [f"{n}" for n in range(len(real))]
    return pd.concat([morphometry.tidy(real * k, name, scans) for k, name in ((1, "real"), (1.1, "generated"))])


def test_figure_8_has_a_panel_per_region_with_all_brains_and_medians(sets):
    fig = regions_figure.draw(sets)
    panels = {ax.get_xlabel(): ax for ax in fig.axes if ax.get_xlabel()}
    assert list(panels) == ["grey matter", "ventricle", "CSF"]
    ax, gm = panels["grey matter"], sets[sets["region"] == "gm"]
    medians = [line.get_ydata()[0] for line in ax.lines]
    np.testing.assert_allclose(medians, [gm.loc[gm["set"] == name, "ml"].median() for name in ("real", "generated")])
    dots = [points.get_offsets() for points in ax.collections if len(points.get_offsets()) == 40]
    for points, name in zip(dots, ("real", "generated"), strict=True):
        np.testing.assert_allclose(points[:, 1], gm.loc[gm["set"] == name, "ml"])
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["real", "generated"]


def test_figure_8_is_deterministic(sets, tmp_path):
    sets.to_csv(tmp_path / "volumes.csv", index=False)
    for name in ("one", "two"):
        arguments = ["--volumes", tmp_path / "volumes.csv", "--config", '{"study": 1}', "--out", tmp_path / name]
        fig_8_script.main([str(a) for a in arguments])
    for suffix in (".pdf", ".png", ".json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_error_messages(real):
    with pytest.raises(ValueError) as error:
        morphometry.compare(real[["gm"]], real[["csf"]])
    assert message(error) == (
        "real and fake must have the same regions; got ['gm'] and ['csf']: measure both with one method"
    )
