"""Classical models: densities, the ladder on planted topics, halves, and the reference rows on real data."""

import numpy as np
import pytest

from neuromf.atlas import baselines
from neuromf.atlas.cleaning import clean_tables
from neuromf.atlas.kernel_maps import foci_counts, kernel_maps, kernel_sums
from neuromf.data.brain_grid import brain_grid
from neuromf.data.neurosynth import read_neurosynth
from neuromf.metrics import likelihood

GRID = brain_grid("6mm")


@pytest.fixture(scope="module")
def split(mock_studies):
    return {name: mock_studies.take(mock_studies.rows(name)) for name in ("train", "test")}


@pytest.fixture(scope="module")
def fitted(split):
    return baselines.fit(split["train"], GRID)


def bits(rate, studies):
    counts = foci_counts(studies, GRID)
    return likelihood.mean_over_foci(likelihood.bits_per_focus(np.log2(rate), counts), likelihood.n_foci(counts))


def test_kernel_sums_are_not_clipped_and_equal_maps_below_one(mock_studies):
    few = mock_studies.take(np.arange(4))
    sums = kernel_sums(few, GRID, 9.0).toarray()
    maps = kernel_maps(few, GRID, 9.0, combine="sum", dtype=np.float32)
    assert sums.max() > 1 and np.allclose(np.minimum(sums, 1), maps, atol=1e-6)
    focus = few.foci(0)[0]
    squared = ((GRID.centres_mm - focus) ** 2).sum(1)
    alone = kernel_sums(few.take([0]).take_foci(np.arange(len(few.foci(0))) == 0), GRID, 9.0).toarray()[0]
    expected = np.exp(-squared / (2 * (9.0 / 2.3548) ** 2))
    assert np.allclose(alone, np.where(expected > 1e-3, expected, 0), atol=2e-3)


@pytest.mark.critical
def test_A64_rates_sum_to_one_and_each_rung_of_the_ladder_adds_bits_on_planted_topics(fitted, split):
    found = {}
    for name in ("uniform", "global", "topics", "ridge"):
        rate = fitted.rates(name, split["test"])
        assert rate.min() > 0 and rate.sum(-1) == pytest.approx(np.ones(rate.shape[:-1]))
        found[name] = bits(rate, split["test"])
    assert found["uniform"] == pytest.approx(-np.log2(GRID.n_voxels))
    assert found["uniform"] < found["global"] - 0.5 and found["global"] < found["topics"] - 0.3
    assert found["global"] < found["ridge"]
    with pytest.raises(ValueError, match="uniform, global, topics, ridge; got 'best'"):
        fitted.rates("best", split["test"])


def test_topic_kde_is_the_weighted_density_of_the_training_foci(fitted, split):
    train = split["train"]
    sums, weights = kernel_sums(train, GRID, 9.0).toarray().astype(float), train.topics.astype(float) ** 2
    for topic in (0, 3):
        density = sum(weights[k, topic] * sums[k] for k in range(len(train))) + 0.0
        assert fitted.topic_rates[topic] == pytest.approx(density / density.sum(), abs=1e-8)


def test_ridge_regression_solves_the_penalised_normal_equations(fitted, split):
    from sklearn.linear_model import Ridge

    maps = kernel_maps(split["train"], GRID, 12.0, combine="sum", dtype=np.float32).astype(float)
    expected = Ridge(baselines.ALPHA).fit(np.sqrt(split["train"].topics.astype(float)), maps)
    predicted = expected.predict(np.sqrt(split["test"].topics.astype(float)))
    assert np.allclose(fitted.ridge_maps(split["test"]), predicted, atol=1e-5)


@pytest.mark.critical
def test_A64_halves_are_disjoint_complete_and_depend_on_the_study_alone(mock_studies):
    half = baselines.first_half(mock_studies, 0)
    n = np.diff(mock_studies.starts)
    assert np.array_equal(np.add.reduceat(half, mock_studies.starts[:-1]), n // 2)
    alone = baselines.first_half(mock_studies.take([7]), 0)
    assert np.array_equal(alone, half[mock_studies.starts[7] : mock_studies.starts[8]])
    assert not np.array_equal(baselines.first_half(mock_studies, 1), half)


@pytest.mark.critical
def test_A64_completion_uses_the_observed_half_and_never_the_other(fitted, split):
    test = split["test"]
    half = baselines.first_half(test, 0)
    rates = fitted.completion(test.take_foci(half))
    other = test.take_foci(~half)
    assert bits(rates, other) > bits(fitted.global_rate, other) + 0.1
    far = test.take_foci(half).take(np.arange(len(test))[::-1])  # foci of another study do not help
    assert bits(fitted.completion(far), other) < bits(rates, other) - 0.3


def test_map_correlation_is_the_mean_pearson_correlation():
    random = np.random.default_rng(0)
    x, y = random.random((2, 5, 40))
    expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    assert baselines.map_correlation(x, y) == pytest.approx(expected)
    assert baselines.map_correlation(x, np.ones_like(x)) == 0


@pytest.mark.critical
@pytest.mark.slow
def test_A64_rows_of_the_reference_table_are_reproduced(real_folder):
    options = {"space": {"tal": "transform", "unknown": "keep"}, "max_rise": 1.0}  # every TAL study is transformed
    studies, _ = clean_tables(read_neurosynth(real_folder), brain_grid("2mm"), scale="full", **options)
    assert len(studies) == 8620
    order = np.random.default_rng(0).permutation(8620)
    train, test = studies.take(order[2586:]), studies.take(order[:1293])
    models = baselines.fit(train, GRID)
    reference = {"uniform": -13.367, "global": -12.745, "topics": -12.585, "ridge": -12.590}
    for name, value in reference.items():
        assert bits(models.rates(name, test), test) == pytest.approx(value, abs=0.01)
