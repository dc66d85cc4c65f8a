"""Statistics over seeds agree with textbook formulas; too few seeds give no test."""

import numpy as np
import pytest
from scipy import stats

from neuromf.metrics import statistics

A = [23.1, 24.0, 22.4, 23.6]
B = [27.9, 26.2, 29.5]
C = [23.0, 23.9, 22.9, 23.4]


def test_welch_equals_its_formula():
    row = statistics.welch(A, B)
    va, vb = np.var(A, ddof=1) / 4, np.var(B, ddof=1) / 3
    t = (np.mean(A) - np.mean(B)) / np.sqrt(va + vb)
    df = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    assert row["statistic"] == pytest.approx(t) and row["p"] == pytest.approx(2 * stats.t.sf(abs(t), df))
    half = stats.t.ppf(0.975, df) * np.sqrt(va + vb)
    assert (row["low"], row["high"]) == pytest.approx((row["difference"] - half, row["difference"] + half))
    assert (row["n_a"], row["n_b"], row["note"]) == (4, 3, "")


def test_the_effect_is_hedges_g():
    pooled = np.sqrt((3 * np.var(A, ddof=1) + 2 * np.var(B, ddof=1)) / 5)
    g = (np.mean(A) - np.mean(B)) / pooled * (1 - 3 / (4 * 5 - 1))
    row = statistics.welch(A, B)
    assert row["effect"] == pytest.approx(g, rel=1e-3) and row["effect_low"] < g < row["effect_high"] < 0


@pytest.mark.parametrize("few", [[1.0], [1.0, 2.0]])
def test_one_or_two_seeds_are_not_tested(few):
    n = len(few)
    for row in (
        statistics.welch(A, few),
        statistics.equivalence(few, A, margin=1.0),
        statistics.anova({"a": A, "few": few}),
        *statistics.tukey({"a": A, "few": few}),
    ):
        assert np.isnan(row["p"]) and row["note"] == f"no test: {n} of at least 3 seeds"
    assert statistics.welch(A, few)["difference"] == pytest.approx(np.mean(A) - np.mean(few))


def test_equal_arms_are_equivalent_and_different_arms_are_not():
    assert statistics.equivalence(A, C, margin=2.0)["p"] < 0.05 < statistics.equivalence(A, B, margin=2.0)["p"]


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    a, c = np.array(A), np.array(C)
    above = stats.ttest_ind(a + 2, c, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(a - 2, c, equal_var=False, alternative="less").pvalue
    assert statistics.equivalence(a, c, margin=2.0)["p"] == pytest.approx(max(above, below))


def test_a_margin_of_zero_is_refused():
    with pytest.raises(ValueError, match="margin must be above 0"):
        statistics.equivalence(A, B, margin=0)


def test_anova_equals_its_sums_of_squares():
    groups = {"a": A, "b": B, "c": C}
    everyone = np.concatenate(list(groups.values()))
    between = sum(len(g) * (np.mean(g) - everyone.mean()) ** 2 for g in groups.values())
    within = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups.values())
    f = (between / 2) / (within / 8)
    row = statistics.anova(groups)
    assert row["statistic"] == pytest.approx(f) and row["p"] == pytest.approx(stats.f.sf(f, 2, 8))
    assert (row["groups"], row["n"]) == (3, 11)


def test_tukey_identifies_the_different_arm():
    rows = {(row["a"], row["b"]): row for row in statistics.tukey({"a": A, "b": B, "c": C})}
    assert rows["a", "b"]["p"] < 0.01 and rows["b", "c"]["p"] < 0.01 < 0.5 < rows["a", "c"]["p"]
    pooled = np.sqrt(sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in (A, B, C)) / 8)
    q = abs(np.mean(A) - np.mean(B)) / (pooled * np.sqrt((1 / 4 + 1 / 3) / 2))
    assert rows["a", "b"]["p"] == pytest.approx(stats.studentized_range.sf(q, 3, 8), rel=1e-3)
    assert rows["a", "b"]["low"] < np.mean(A) - np.mean(B) < rows["a", "b"]["high"] < 0


def test_a_single_arm_is_refused():
    with pytest.raises(ValueError, match="at least two arms"):
        statistics.anova({"only": A})


def test_holm_by_hand_and_nan_stays_nan():
    got = statistics.corrected([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(got, [0.03, np.nan, 0.06, 0.06])
    assert np.isnan(statistics.corrected([np.nan])).all()


def test_pareto_front():
    fid, ssim = [10, 12, 11, 10, 15], [0.80, 0.85, 0.79, 0.80, 0.90]
    assert statistics.pareto(fid, ssim).tolist() == [True, True, False, True, True]


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="a must be one finite number per seed"):
        statistics.welch([1.0, np.nan, 2.0], B)


def test_arms_without_spread_have_no_effect_size():
    assert np.isnan(statistics.hedges(np.ones(3), np.ones(3))).all()
