"""Distances of features against closed forms, double loops, SciPy, PRDC, and typical faults of generators."""

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.spatial.distance import pdist
from scipy.stats import norm, wasserstein_distance

from neuromf.metrics import controls, resampling
from neuromf.metrics.distances import frechet, mmd, prdc, sliced_wasserstein, table


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def message(error):
    return str(error.value)


# --- Fréchet -----------------------------------------------------------------------------------------


def by_singular_values(x, y):
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * overlap


@pytest.mark.parametrize("decay", [0, 1, 4])
def test_many_rows_by_eigenvalues_agree_with_singular_values(rng, decay):
    """Steep spectra give distances so small that only singular values resolve them."""
    n_features = frechet.LARGE + 50
    sd = np.arange(1, n_features + 1.0) ** -decay
    x, y = (rng.standard_normal((n_features - 10, n_features)) * sd for _ in range(2))
    np.testing.assert_allclose(frechet.frechet_distance(x, y), by_singular_values(x, y), rtol=frechet.TOLERANCE)
    assert frechet.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_commuting_gaussians_of_many_features_are_the_closed_form(rng):
    """The rows are balanced so that their covariances are diagonal in one basis, exactly."""
    n_features = frechet.LARGE + 20
    basis = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0]
    rows = np.vstack([np.eye(n_features), -np.eye(n_features)]) * np.sqrt((2 * n_features - 1) / 2)
    sd, other = rng.uniform(0.5, 2, (2, n_features))
    shift = rng.standard_normal(n_features)
    expected = np.sum(shift**2) + np.sum((sd - other) ** 2)
    got = frechet.frechet_distance(rows * sd @ basis, rows * other @ basis + shift)
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(30, 60), (30, 8), (12, 3, 50), (12, 3, 5)])
def test_the_fast_interval_agrees_with_the_bootstrap(rng, shape):
    real, fake = rng.standard_normal(shape) + 2, rng.standard_normal((shape[0] - 4, *shape[1:])) * 1.5
    expected = resampling.bootstrap(frechet.frechet_distance, real, fake, 20, 3)
    np.testing.assert_allclose(frechet.frechet_interval(real, fake, 20, 3), expected, rtol=1e-9)


def test_the_interval_of_small_sets_contains_the_distance_and_covers_new_samples(rng):
    """Bootstrap percentiles lie above the distance; their spread is at least that of new samples."""

    def sample(n):
        return rng.standard_normal((n, 60)) * np.linspace(0.2, 2, 60)

    distances = [frechet.frechet_distance(sample(40), sample(30)) for _ in range(60)]
    real, fake = sample(40), sample(30)
    value, (low, high) = frechet.frechet_distance(real, fake), frechet.frechet_interval(real, fake)
    resampled = [frechet.frechet_distance(real[i], fake[j]) for i, j in resampling.bootstrap_indices(40, 30, 40, 0)]
    assert low < value < high < np.mean(resampled)
    assert 1 < (high - low) / 3.92 / np.std(distances) < 2


def test_intervals_of_distances_are_not_negative():
    assert resampling.recentred_interval(0.1, [0.2, 0.9, 1.0, 1.1]) == pytest.approx((0.0, 0.1 + 0.1425))
    assert resampling.recentred_interval(0.1, [-1.0, 0.0, 1.0])[0] < 0


def test_slices_are_resampled_with_their_volume(rng):
    """Twenty equal slices per volume do not narrow the interval; resampled one by one they would."""
    real, fake = rng.standard_normal((60, 1, 1)), rng.standard_normal((50, 1, 1))

    def shift(x, y):
        return float(y.mean() - x.mean())

    width = np.diff(resampling.bootstrap(shift, real, fake, 400))
    slices = np.repeat(real, 20, axis=1), np.repeat(fake, 20, axis=1)
    np.testing.assert_allclose(np.diff(resampling.bootstrap(shift, *slices, 400)), width, rtol=1e-9)
    assert np.diff(resampling.bootstrap(shift, *(resampling.stack_slices(x) for x in slices), 400)) < width / 3


def test_distances_at_equal_n_are_comparable(rng):
    """Both sets have one distribution: the distance is bias alone, proportional to 1 / n."""
    real, fake = rng.standard_normal((2, 800, 6))
    found = [resampling.at_equal_n(frechet.frechet_distance, real, fake, n, repeats=20)[0] for n in (25, 100, 400)]
    assert found[0] > 2.5 * found[1] > 6 * found[2] > 0
    few = resampling.at_equal_n(frechet.frechet_distance, real, fake[:25], repeats=20)
    assert few[1] == 25 and few[0] == pytest.approx(found[0], rel=0.3)


# --- kernels -----------------------------------------------------------------------------------------


def double_loop(k, x, y):
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_mmd_and_kid_agree_with_double_loops(rng):
    x, y = rng.standard_normal((9, 4)) + 3, 2 * rng.standard_normal((7, 4)) + 3
    median = np.median(pdist(x))

    def gaussians(a, b):
        return np.mean([np.exp(-np.sum((a - b) ** 2) / (2 * (c * median) ** 2)) for c in (0.25, 0.5, 1, 2, 4)])

    def cubic(a, b):
        return (np.dot(a, b) / 4 + 1) ** 3

    assert mmd.rbf(x, y).mmd2() == pytest.approx(double_loop(gaussians, x, y), rel=1e-10)
    assert mmd.polynomial(x, y).mmd2() == pytest.approx(double_loop(cubic, x, y), rel=1e-10)


def test_mmd_of_few_volumes_of_two_gaussians_is_the_closed_form_on_average(rng):
    width, shift = 0.8, 1.0
    wide = width**2 + 2
    expected = 2 * width / np.sqrt(wide) * (1 - np.exp(-(shift**2) / (2 * wide)))
    found = [mmd.rbf(*(rng.standard_normal((2, 8, 1)) + [[[0]], [[shift]]]), width).mmd2() for _ in range(2000)]
    assert np.mean(found) == pytest.approx(expected, abs=3 * np.std(found) / np.sqrt(2000))
    assert np.std(found) / np.sqrt(2000) < 0.03 * expected


def test_mmd_of_equal_distributions_is_zero_on_average_and_may_be_negative(rng):
    found = [mmd.polynomial(*rng.standard_normal((2, 8, 5))).mmd2() for _ in range(300)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300) and min(found) < 0


def test_slices_of_one_volume_are_not_compared(rng):
    x, y = rng.standard_normal((4, 3, 2)), rng.standard_normal((5, 6, 2))

    def mean_over_slices(a, b):
        return np.mean([[(np.dot(s, t) / 2 + 1) ** 3 for t in b] for s in a])

    assert mmd.polynomial(x, y).mmd2() == pytest.approx(double_loop(mean_over_slices, x, y), rel=1e-10)


def test_a_resampled_duplicate_is_not_compared_with_itself(rng):
    found = mmd.rbf(rng.standard_normal((4, 2)), rng.standard_normal((3, 2)))
    draw = np.array([0, 0, 2, 3])
    pairs = [found.real[i, j] for a, i in enumerate(draw) for b, j in enumerate(draw) if a != b and i != j]
    assert mmd.mean_of_pairs(found.real, np.bincount(draw)) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_the_kernel_is_the_same_for_every_generated_set(rng):
    real = rng.standard_normal((12, 3))
    near, far = mmd.rbf(real, real + 0.1), mmd.rbf(real, 100 * real)
    np.testing.assert_array_equal(near.real, far.real)


def test_kernel_intervals_contain_the_value_and_exclude_zero_for_different_sets(rng):
    real, same, other = *rng.standard_normal((2, 60, 5)), rng.standard_normal((40, 5)) + 1
    for make in (mmd.rbf, mmd.polynomial):
        low, high = make(real, other).interval(100)
        assert 0 < low < make(real, other).mmd2() < high
        low, high = make(real, same).interval(100)
        assert low < 0 < high


# --- precision, recall, density, coverage -------------------------------------------------------------


def test_prdc_of_points_on_a_line():
    """Real balls with k = 1: 0 +- 1, 1 +- 1, 3 +- 2, 10 +- 7. Generated: 0.5 +- 2, 2.5 +- 2, 30 +- 27.5."""
    real, fake = np.array([[0.0], [1], [3], [10]]), np.array([[0.5], [2.5], [30]])
    found = prdc.measures(real, fake, k=1)
    assert found["precision"] == pytest.approx(2 / 3)  # 0.5 and 2.5, not 30
    assert found["density"] == pytest.approx((2 + 1) / 3)  # 0.5 in the balls of 0 and 1; 2.5 in that of 3
    assert found["coverage"] == 3 / 4  # nothing in that of 10, which begins at 3
    assert found["recall"] == 1  # 0 and 1 in that of 0.5, 3 in that of 2.5, 10 in that of 30


def test_prdc_agrees_with_the_package_of_its_authors(rng):
    real, fake = rng.standard_normal((25, 3)), 1.3 * rng.standard_normal((18, 3))
    for k in (1, 4):
        assert prdc.measures(real, fake, k) == pytest.approx(compute_prdc(real, fake, k))


def test_equal_distributions_have_density_one_and_the_expected_coverage(rng):
    found = [prdc.measures(rng.standard_normal((30, 4)), rng.standard_normal((20, 4))) for _ in range(150)]
    assert np.mean([one["density"] for one in found]) == pytest.approx(1, abs=0.05)
    coverage = [one["coverage"] for one in found]
    expected = 1 - np.prod([(29 - i) / (49 - i) for i in range(prdc.K)])  # Naeem et al., lemma 2
    assert np.mean(coverage) == pytest.approx(expected, abs=4 * np.std(coverage) / 12)


def test_prdc_intervals_contain_their_values(rng):
    real, fake = rng.standard_normal((60, 3)), rng.standard_normal((50, 3))
    real[:20], fake[:20] = real[:20] - 5, fake[:20] + 5  # each set has a mode that the other lacks
    values, found = prdc.measures(real, fake), prdc.intervals(real, fake)
    for name in prdc.MEASURES:
        assert found[name][0] < values[name] < found[name][1]
    assert found == prdc.intervals(real, fake) != prdc.intervals(real, fake, seed=1)


# --- sliced Wasserstein ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(7, 7), (7, 4), (5, 13)])
def test_in_one_dimension_it_is_the_distance_of_scipy(rng, n, m):
    x, y = rng.standard_normal((n, 1)), rng.exponential(2, (m, 1))
    got = sliced_wasserstein.sliced_wasserstein(x, y, p=1, n_directions=3)
    assert got == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)


def test_gaussians_in_one_dimension_are_the_closed_form():
    quantiles = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    got = sliced_wasserstein.sliced_wasserstein(quantiles, 3 + 2 * quantiles[::2])
    assert got == pytest.approx(np.hypot(3, 1), rel=5e-3)


def test_the_distance_of_a_shift_is_its_length_over_the_root_of_the_dimension(rng):
    x, shift = rng.standard_normal((10, 40)), rng.standard_normal(40)
    got = sliced_wasserstein.sliced_wasserstein(x, x + shift, n_directions=4000)
    assert got == pytest.approx(np.linalg.norm(shift) / np.sqrt(40), rel=0.03)
    assert sliced_wasserstein.sliced_wasserstein(x, x[::-1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(9, 4), (9, 3, 4)])
def test_the_sliced_interval_agrees_with_the_bootstrap(rng, shape):
    x, y = rng.standard_normal(shape), rng.standard_normal(shape) + 1
    expected = resampling.bootstrap(sliced_wasserstein.sliced_wasserstein, x, y, 30, 0)
    np.testing.assert_allclose(sliced_wasserstein.sliced_interval(x, y, n_boot=30), expected, rtol=1e-9)


# --- faults of generators -----------------------------------------------------------------

N_MODES = 10


@pytest.fixture
def modes(rng):
    """A function that draws n features of dimension 12 from the first `kinds` of ten modes."""
    centres = 6 * rng.standard_normal((N_MODES, 12))
    return lambda n, kinds=N_MODES: centres[rng.integers(kinds, size=n)] + rng.standard_normal((n, 12))


def found(real, fake):
    return {row["metric"]: row for row in table.distances(real, fake, "test", n_boot=40)}


FAR = ["frechet", "frechet_equal_n100", "kid", "mmd2", "sliced_wasserstein"]


def test_mode_collapse_is_detected_by_all_distances_coverage_and_recall(modes):
    real, honest, collapsed = modes(200), modes(100), modes(100, kinds=3)
    good, bad = found(real, honest), found(real, collapsed)
    for name in FAR:
        assert bad[name]["value"] > 2 * abs(good[name]["value"])
    for name in ("kid", "mmd2"):
        assert bad[name]["low"] > good[name]["high"]
    assert good["coverage"]["value"] > 0.8 and good["recall"]["value"] > 0.8
    assert bad["coverage"]["high"] < 0.5 and bad["recall"]["high"] < 0.5 and bad["precision"]["value"] > 0.8


def test_nearly_equal_samples_are_detected(modes, rng):
    real, honest = modes(200), modes(100)
    alike = real[:1] + 0.01 * rng.standard_normal((100, 12))
    good, bad = found(real, honest), found(real, alike)
    for name in FAR:
        assert bad[name]["value"] > 2 * abs(good[name]["value"])
    assert bad["recall"]["value"] < 0.01 and bad["coverage"]["value"] < 0.2 and bad["precision"]["value"] == 1


def test_copies_among_poor_samples_raise_precision_and_density(rng):
    """Poor samples are off the manifold and copies are on it: these measures reward memorisation."""
    train, poor = rng.standard_normal((200, 30)), 1.5 * rng.standard_normal((100, 30))
    copied = np.vstack([train[:20] + 0.02 * rng.standard_normal((20, 30)), poor[20:]])
    before, after = prdc.measures(train, poor), prdc.measures(train, copied)
    assert after["precision"] > before["precision"] + 0.15 and after["density"] > before["density"] + 0.05


# --- rows --------------------------------------------------------------------------------------------


def test_rows_have_features_and_numbers_of_volumes(rng):
    rows = table.distances(rng.standard_normal((30, 2, 6)), rng.standard_normal((12, 2, 6)), "net-xy", n_boot=50)
    names = ["frechet", "frechet_equal_n12", "kid", "mmd2", "sliced_wasserstein", *prdc.MEASURES]
    assert [row["metric"] for row in rows] == names
    assert all(list(row) == ["metric", "features", "n", "value", "low", "high"] for row in rows)
    assert all(row["n"] == 12 and row["features"] == "net-xy" for row in rows)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["metric"] in prdc.MEASURES)
    assert all(row["low"] < row["high"] for row in rows[:1] + rows[2:5])
    few = table.distances(rng.standard_normal((30, 6)), rng.standard_normal((4, 6)), "net", n_boot=10)
    assert [row["metric"] for row in few] == ["frechet", "frechet_equal_n4", "kid", "mmd2", "sliced_wasserstein"]


# --- controls ----------------------------------------------------------------------------------------


@pytest.fixture
def volumes(rng):
    return rng.random((4, 16, 20, 16)).astype(np.float32)


def test_control_sets_are_degraded_as_named(volumes):
    made = controls.control_sets(volumes, block=8)
    assert made.keys() == {name for chain in controls.CHAINS for name in chain}
    assert all(x.shape == volumes.shape and x.dtype == np.float32 for x in made.values())
    assert all(x.min() >= 0 and x.max() <= 1 for x in made.values())
    np.testing.assert_array_equal(made["test"], volumes)
    np.testing.assert_allclose(made["mean"][2], volumes.mean(0), rtol=1e-6)
    spread = [made[name].std() for name in ("test", "blurred", "more-blurred")]
    assert spread[0] > 3 * spread[1] > 6 * spread[2]
    off = [np.abs(made[name] - volumes).mean() for name in ("noisy", "noisier")]
    assert 0 < 1.5 * off[0] < off[1]


def test_shuffled_blocks_are_permuted_and_the_rim_stays(volumes):
    got = controls.shuffle_blocks(volumes[0], 8, seed=0)

    def blocks(x):
        return {x[i : i + 8, j : j + 8, k : k + 8].tobytes() for i in (0, 8) for j in (0, 8) for k in (0, 8)}

    assert blocks(got) == blocks(volumes[0]) and len(blocks(got)) == 8
    np.testing.assert_array_equal(got[:, 16:], volumes[0][:, 16:])
    assert not np.array_equal(got, volumes[0])


def test_a_degraded_volume_does_not_depend_on_its_set(volumes):
    all_four, first_two = controls.control_sets(volumes, block=8), controls.control_sets(volumes[:2], block=8)
    for name in ("noisy", "noisier", "shuffled", "blurred"):
        np.testing.assert_array_equal(all_four[name][:2], first_two[name])


def test_halves_are_disjoint_and_an_odd_n_leaves_one_out():
    first, second = controls.halves(9, seed=1)
    assert len(first) == len(second) == 4 and len({*first, *second}) == 8
    assert not np.array_equal(first, controls.halves(9, seed=2)[0])


IN_ORDER = {"test": 1, "blurred": 2, "more-blurred": 3, "noisy": 2, "noisier": 5, "shuffled": 9, "mean": 4}


def as_rows(values):
    return [{"set": name, "value": value} for name, value in values.items()]


def test_metrics_that_do_not_order_the_controls_are_detected():
    assert controls.in_order(as_rows(IN_ORDER)) and controls.in_order(as_rows({**IN_ORDER, "1": -3}))
    for name, value in [("blurred", 3.1), ("noisy", 1), ("noisier", 1.9), ("shuffled", 0.9), ("mean", np.nan)]:
        assert not controls.in_order(as_rows({**IN_ORDER, name: value}))
    assert controls.in_order(as_rows({**IN_ORDER, "blurred": 3}))  # a bound may be reached early
    falling = {name: -value for name, value in IN_ORDER.items()}
    assert controls.in_order(as_rows(falling), larger_is_worse=False) and not controls.in_order(as_rows(falling))


# --- errors ------------------------------------------------------------------------------------------


def test_error_messages(rng, volumes):
    x = rng.standard_normal((10, 3))
    with pytest.raises(ValueError) as error:
        resampling.at_equal_n(frechet.frechet_distance, x, x[:6], 7)
    assert message(error) == "n must lie between 2 and 6, the size of the smaller set; got 7"
    with pytest.raises(ValueError) as error:
        mmd.rbf(np.ones((4, 2)), x[:, :2])
    assert message(error) == "widths must be above 0; got [0.0, 0.0, 0.0, 0.0, 0.0]: are all real volumes equal?"
    with pytest.raises(ValueError) as error:
        mmd.polynomial(np.stack([x] * 3), x[None])
    assert message(error) == "MMD needs at least 2 volumes in both sets; got 3 and 1"
    with pytest.raises(ValueError) as error:
        prdc.measures(x, x[:5])
    assert message(error) == "k must be at least 1 and less than the size of both sets; got 5 for 10 and 5 volumes"
    with pytest.raises(ValueError) as error:
        sliced_wasserstein.sliced_wasserstein(x, x, p=0.5)
    assert message(error) == "p and n_directions must be at least 1; got 0.5 and 256"
    with pytest.raises(ValueError) as error:
        controls.halves(3)
    assert message(error) == "two halves need at least 4 volumes; got 3"
    with pytest.raises(ValueError) as error:
        controls.control_sets(volumes)
    assert message(error) == "a volume of (16, 20, 16) voxels has fewer than 2 blocks of side 16; lower block"
    with pytest.raises(ValueError) as error:
        controls.in_order(as_rows({"test": 1, "blurred": 2}))
    assert message(error) == (
        "no row of the sets mean, more-blurred, noisier, noisy, shuffled; evaluate all sets of control_sets()"
    )
    with pytest.raises(ValueError) as error:
        controls.in_order(as_rows(IN_ORDER) * 2)
    assert message(error) == "rows must belong to one metric in one feature set; set test occurs twice"
