"""Bits per focus: exact values, mixing, paired intervals."""

import numpy as np
import pytest
from scipy import sparse

from neuromf.metrics import likelihood

COUNTS = sparse.csr_matrix(np.array([[2.0, 0, 1, 0], [0, 4.0, 0, 0], [0, 0, 0, 0]]))


@pytest.mark.critical
def test_A64_a_uniform_rate_scores_minus_log2_of_the_voxels():
    bits = likelihood.bits_per_focus(np.log2(np.full(4, 0.25)), COUNTS)
    assert bits[:2] == pytest.approx([-2, -2]) and np.isnan(bits[2])


@pytest.mark.critical
def test_A64_bits_are_the_mean_log2_rate_over_foci():
    rates = likelihood.normalised_rate(np.random.default_rng(0).random((3, 4)))
    dense = COUNTS.toarray()
    expected = [sum(dense[k, v] * np.log2(rates[k, v]) for v in range(4)) / dense[k].sum() for k in range(2)]
    bits = likelihood.bits_per_focus(np.log2(rates), COUNTS)
    assert bits[:2] == pytest.approx(expected)
    n = likelihood.n_foci(COUNTS)
    assert likelihood.mean_over_foci(bits, n) == pytest.approx((3 * expected[0] + 4 * expected[1]) / 7)
    assert likelihood.score(bits, n).value == pytest.approx((3 * expected[0] + 4 * expected[1]) / 7)


@pytest.mark.critical
def test_A64_the_true_rate_scores_best_and_loses_the_relative_entropy_otherwise():
    random = np.random.default_rng(1)
    true, other = likelihood.normalised_rate(random.random((2, 50)))
    counts = sparse.csr_matrix(random.multinomial(200_000, true)[None].astype(float))
    gap = (likelihood.bits_per_focus(np.log2(true), counts) - likelihood.bits_per_focus(np.log2(other), counts))[0]
    assert gap == pytest.approx(float((true * np.log2(true / other)).sum()), rel=0.03) and gap > 0


def test_a_map_becomes_a_rate_by_a_floor_and_a_sum():
    rate = likelihood.normalised_rate([[0.0, 1.0, -3.0, 1.0]], floor=0.5)
    assert rate == pytest.approx(np.array([[0.5, 1, 0.5, 1]]) / 3)
    with pytest.raises(ValueError, match="rows \\[1\\] hold NaN"):
        likelihood.normalised_rate([[1.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="between 0 and 1"):
        likelihood.mix(rate, rate, 1.5)


@pytest.mark.critical
def test_A64_the_chosen_weight_is_that_of_the_mixture_that_made_the_foci():
    random = np.random.default_rng(2)
    own, shared = likelihood.normalised_rate(random.random((2, 30)) ** 4)
    counts = sparse.csr_matrix(random.multinomial(50_000, likelihood.mix(own, shared, 0.3))[None].astype(float))
    assert likelihood.choose_weight(own[None], shared, counts) == pytest.approx(0.3, abs=0.051)


def test_a_paired_interval_is_narrower_than_that_of_the_scores_and_resamples_studies():
    random = np.random.default_rng(3)
    n, easy = random.integers(5, 60, 300).astype(float), random.normal(-12.6, 1, 300)
    first, second = easy + 0.05 + 0.05 * random.normal(size=300), easy
    paired, single = likelihood.score(first - second, n), likelihood.score(first, n)
    assert 0 < paired.low < paired.value < paired.high and paired.high - paired.low < 0.2 * (single.high - single.low)
    deviation = np.sqrt((n**2 * (first - single.value) ** 2).sum()) / n.sum()  # ratio estimator
    assert single.high - single.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    large = likelihood.score(np.where(n > 30, -10.0, -20.0), n)  # large studies count by their foci
    assert -20 < large.low < large.value < large.high < -10
    assert large.value == pytest.approx((-10 * n[n > 30].sum() - 20 * n[n <= 30].sum()) / n.sum())
    assert likelihood.score(first, n, seed=1) != single == likelihood.score(first, n)
