"""Fréchet distance, similarity, spectra and tissues against closed forms, SciPy, scikit-image and constructed cases."""

import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from neuromf.metrics import resampling
from neuromf.metrics.anatomy import tissues
from neuromf.metrics.distances import frechet
from neuromf.metrics.images import similarity, spectral


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def message(error):
    return str(error.value)


def with_moments(rng, n, mean, cov):
    """Rows with exactly the given sample mean and covariance."""
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x.T, ddof=1).reshape(len(mean), -1)), x.T).T
    return mean + white @ np.linalg.cholesky(cov).T


# Fréchet


def test_frechet_distance_of_two_normals_in_one_dimension_is_the_closed_form(rng):
    real = with_moments(rng, 20, np.array([1.0]), np.array([[4.0]]))
    fake = with_moments(rng, 30, np.array([4.0]), np.array([[0.25]]))
    assert frechet.frechet_distance(real, fake) == pytest.approx(3**2 + (2 - 0.5) ** 2, rel=1e-10)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form(rng):
    sd, other = np.array([1.0, 2.0, 0.5, 3.0]), np.array([2.0, 0.1, 0.5, 1.0])
    real = with_moments(rng, 40, np.zeros(4), np.diag(sd**2))
    fake = with_moments(rng, 25, np.arange(4.0), np.diag(other**2))
    expected = np.sum(np.arange(4.0) ** 2) + np.sum((sd - other) ** 2)
    assert frechet.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(50, 60), (50, 4), (5, 7)])
def test_frechet_distance_agrees_with_the_matrix_square_root(rng, n, m):
    real = rng.standard_normal((n, 8)) @ rng.standard_normal((8, 8))
    fake = rng.standard_normal((m, 8)) @ rng.standard_normal((8, 8)) + 0.3
    s1, s2 = np.cov(real.T), np.cov(fake.T)
    if min(n, m) > 8:
        cross = np.trace(sqrtm(s1 @ s2)).real
    else:  # SciPy's square root needs a full rank; the product's eigenvalues do not
        cross = np.sqrt(np.clip(np.linalg.eigvals(s1 @ s2).real, 0, None)).sum()
    means = np.sum((real.mean(axis=0) - fake.mean(axis=0)) ** 2)
    expected = means + np.trace(s1) + np.trace(s2) - 2 * cross
    np.testing.assert_allclose(frechet.frechet_distance(real, fake), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
def test_frechet_distance_is_zero_on_itself_and_symmetric(rng, shape):
    real, fake = rng.standard_normal(shape), rng.standard_normal(shape) * 2
    assert frechet.frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
    there, back = frechet.frechet_distance(real, fake), frechet.frechet_distance(fake, real)
    assert there == pytest.approx(back, rel=1e-10) and there > 1


def test_the_distance_of_a_shift_is_its_squared_length_also_for_few_rows(rng):
    real, shift = rng.standard_normal((6, 50)), rng.standard_normal(50)
    assert frechet.frechet_distance(real, real + shift) == pytest.approx(np.sum(shift**2), rel=1e-9)


def test_bootstrap_interval_of_a_mean_difference_is_the_normal_one(rng):
    real, fake = rng.standard_normal((200, 1)), rng.standard_normal((150, 1)) + 1
    low, high = resampling.bootstrap(lambda x, y: float(y.mean() - x.mean()), real, fake, 2000, 0)
    centre = fake.mean() - real.mean()
    half = 1.96 * np.sqrt(real.var() / 200 + fake.var() / 150)
    np.testing.assert_allclose([low, high], [centre - half, centre + half], atol=0.1 * half)


def test_frechet_error_messages():
    a, holed = np.zeros((3, 2)), np.array([[0, np.nan], [1, 1], [np.inf, 2]])
    with pytest.raises(ValueError) as error:
        frechet.frechet_distance(a, np.zeros((3, 4)))
    assert message(error) == (
        "real and fake must have the same number of features; got 2 and 4: "
        "compute both with one network and one projection"
    )
    with pytest.raises(ValueError) as error:
        frechet.frechet_distance(a[:1], a)
    assert message(error) == "real must have shape (N, F), one row per volume, at least 2; got (1, 2)"
    with pytest.raises(ValueError) as error:
        frechet.frechet_distance(a, holed)
    assert message(error) == ("fake must be finite; got NaN or infinity in 2 of 3 rows: check the volumes")
    with pytest.raises(ValueError) as error:
        resampling.bootstrap(frechet.frechet_distance, a, a, 1)
    assert message(error) == "n_boot must be at least 2, better 200; got 1"


# Similarity


@pytest.fixture
def smooth(rng):
    x = gaussian_filter(rng.random((2, 28, 30, 32)), (0, 2, 2, 2))
    return ((x - x.min()) / np.ptp(x)).astype(np.float32)


def test_psnr_and_ssim_agree_with_scikit_image(rng, smooth):
    noisy = np.clip(smooth + 0.05 * rng.standard_normal(smooth.shape), 0, 1).astype(np.float32)
    pairs = list(zip(smooth, noisy, strict=True))
    psnr = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
    ssim = [structural_similarity(a, b, **settings) for a, b in pairs]
    np.testing.assert_allclose(similarity.psnr(smooth, noisy), psnr, rtol=1e-5)
    np.testing.assert_allclose(similarity.ssim(smooth, noisy), ssim, rtol=1e-4)


def test_an_offset_of_a_tenth_is_twenty_decibels_and_equal_volumes_are_infinite(smooth):
    offset = np.stack([smooth[0] + np.float32(0.1), smooth[1]])
    np.testing.assert_allclose(similarity.psnr(smooth, offset), [20, np.inf], rtol=1e-5)


def test_equal_volumes_have_a_similarity_of_one(smooth):
    np.testing.assert_allclose(similarity.ssim(smooth, smooth), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(similarity.ms_ssim(smooth, smooth), [1, 1], rtol=1e-6)


def test_ms_ssim_is_the_weighted_product_over_three_scales(rng, smooth):
    a, b = smooth[0, :28, :28, :28], smooth[1, :28, :28, :28]
    b = 0.5 * a + 0.5 * b

    def halved(x):
        return x.reshape(len(x) // 2, 2, len(x) // 2, 2, len(x) // 2, 2).mean(axis=(1, 3, 5))

    def terms(x, y):
        def mean(z):  # the 7-voxel window, only where it lies inside
            return gaussian_filter(z.astype(float), 1.5, radius=3)[3:-3, 3:-3, 3:-3]

        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        contrast = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        return (contrast * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)).mean(), contrast.mean()

    weights = np.array([0.0448, 0.2856, 0.3001]) / 0.6305
    scales = [(a, b), (halved(a), halved(b)), (halved(halved(a)), halved(halved(b)))]
    values = np.array([terms(*scales[0])[1], terms(*scales[1])[1], terms(*scales[2])[0]])
    got = similarity.ms_ssim(a[None], b[None])
    np.testing.assert_allclose(got, np.prod(values**weights), rtol=1e-3)


def test_similarity_of_many_pairs_agrees_with_monai_pair_by_pair(rng):
    a = gaussian_filter(rng.random((6, 30, 29, 33)), (0, 2, 2, 2)).astype(np.float32)
    a = (a - a.min()) / np.ptp(a)
    b = np.concatenate([a[1:], 1 - a[5:]])  # the last pair has an SSIM below 0
    same = {"data_range": 1.0, "kernel_sigma": 1.5, "reduction": "none"}
    plain = SSIMMetric(3, win_size=similarity.WINDOW, **same)
    scales = MultiScaleSSIMMetric(3, kernel_size=similarity.MS_WINDOW, weights=similarity.MS_WEIGHTS, **same)
    for measure, metric in ((similarity.ssim, plain), (similarity.ms_ssim, scales)):
        pairs = [[torch.from_numpy(v)[None, None] for v in pair] for pair in zip(a, b, strict=True)]
        np.testing.assert_allclose(measure(a, b), [float(metric(*pair)) for pair in pairs], rtol=1e-5, atol=1e-6)
    assert similarity.ssim(a, b).min() < 0


def test_more_noise_is_less_similar_by_every_measure(rng, smooth):
    noise = rng.standard_normal(smooth.shape).astype(np.float32)
    for measure in (similarity.psnr, similarity.ssim, similarity.ms_ssim):
        little, much = measure(smooth, smooth + 0.02 * noise), measure(smooth, smooth + 0.2 * noise)
        assert (little > much).all()


def test_pair_similarity_is_the_mean_over_the_pairs_of_different_volumes(rng, smooth):
    volumes = np.concatenate([smooth, 1 - smooth[:1]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([similarity.ms_ssim(volumes[[i]], volumes[[j]]) for i, j in pairs])
    assert similarity.pair_ms_ssim(volumes, 10) == pytest.approx(expected, rel=1e-6)
    assert similarity.pair_ms_ssim(np.stack([smooth[0]] * 3), 2) == pytest.approx(1, rel=1e-6)
    drawn = {round(similarity.pair_ms_ssim(volumes, 1, seed), 6) for seed in range(6)}
    assert len(drawn) > 1


def test_similarity_error_messages():
    with pytest.raises(ValueError) as error:
        similarity.ms_ssim(np.zeros((1, 64, 27, 64)), np.zeros((1, 64, 27, 64)))
    assert message(error) == (
        "volumes must have at least 28 voxels along each axis; got (64, 27, 64): pad them with zeros"
    )
    with pytest.raises(ValueError) as error:
        similarity.psnr(np.zeros((1, 2, 2, 2)), np.zeros((2, 2, 2, 2)))
    assert message(error) == ("a and b must have the same shape; got (1, 2, 2, 2) and (2, 2, 2, 2)")
    with pytest.raises(ValueError) as error:
        similarity.pair_ms_ssim(np.zeros((1, 28, 28, 28)), 5)
    assert message(error) == "diversity needs at least 2 volumes and 1 pair; got 1 volumes and n_pairs=5"


# Spectra


def wave(shape, spacing_mm, axis, cycles_per_mm):
    """One volume with a cosine of the given frequency along one axis."""
    mm = np.arange(shape[axis]) * np.broadcast_to(spacing_mm, 3)[axis]
    line = np.cos(2 * np.pi * cycles_per_mm * mm)
    return np.broadcast_to(line.reshape([-1 if i == axis else 1 for i in range(3)]), shape)[None]


def test_the_sum_of_power_is_that_of_squared_intensities(rng):
    x = rng.random((10, 20, 30))
    assert spectral.power(x).sum() == pytest.approx(np.sum(x**2), rel=1e-12)


@pytest.mark.parametrize(("shape", "spacing"), [((10, 20, 30), 1.0), ((9, 15, 8), (1.0, 1.5, 2.0))])
def test_bins_and_corners_contain_all_power(rng, shape, spacing):
    x = rng.random((2, *shape))
    frequency, mean = spectral.radial_spectrum(x, spacing)
    bins = spectral.shells(shape, spacing)[1]
    counts = np.bincount(bins.ravel(), minlength=len(frequency) + 1)
    assert (counts[:-1] > 0).all()
    corners = [spectral.power(v)[bins == len(frequency)].sum() for v in x]
    np.testing.assert_allclose(mean @ counts[:-1] + corners, np.sum(x**2, axis=(1, 2, 3)), rtol=1e-12)


def test_white_noise_of_unit_variance_has_unit_power_at_every_frequency(rng):
    mean = spectral.radial_spectrum(rng.standard_normal((40, 12, 14, 16)), 1.0)[1].mean(axis=0)
    np.testing.assert_allclose(mean[1:], 1, atol=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cosine_is_in_its_bin_for_any_shape_and_spacing(axis):
    shape, spacing = (16, 24, 20), (2.0, 1.0, 2.0)
    cycles_per_mm = {0: 4 / 32, 1: 3 / 24, 2: 5 / 40}[axis]  # 0.125 along each, on the grid of each
    frequency, mean = spectral.radial_spectrum(wave(shape, spacing, axis, cycles_per_mm), spacing)
    assert frequency[mean[0].argmax()] == pytest.approx(0.125)
    bins = spectral.shells(shape, spacing)[1]
    k = mean[0].argmax()
    assert mean[0, k] * np.sum(bins == k) == pytest.approx(np.prod(shape) / 2)  # mean of cos² is 1/2


def test_a_frequency_between_two_bins_is_in_the_nearer_bin():
    shape, spacing = (16, 24, 20), (2.0, 1.0, 2.0)  # bins at multiples of 1/24; 5/32 is 3.75 of them
    frequency, mean = spectral.radial_spectrum(wave(shape, spacing, 0, 5 / 32), spacing)
    assert frequency[mean[0].argmax()] == pytest.approx(4 / 24)


def test_bins_end_at_the_nyquist_frequency_of_the_coarsest_axis():
    frequency, _ = spectral.shells((16, 24, 20), (2.0, 1.0, 2.0))
    np.testing.assert_allclose(frequency, np.arange(7) / 24)  # steps of 1/24, Nyquist at 6/24
    assert spectral.nyquist((2.0, 1.0, 2.0)) == 0.25


def test_the_high_frequency_ratio_is_the_power_of_the_wave_above_the_cutoff():
    shape = (16, 16, 16)
    low, high = wave(shape, 1.0, 0, 2 / 16), wave(shape, 1.0, 1, 5 / 16)
    ratio = spectral.high_frequency_ratio(7 + 3 * low + 1 * high, 1.0)
    np.testing.assert_allclose(ratio, [1 / (3**2 + 1)], rtol=1e-10)
    np.testing.assert_allclose(spectral.high_frequency_ratio(high, 1.0, 5 / 8), [1])
    np.testing.assert_allclose(spectral.high_frequency_ratio(high, 1.0, 0.7), [0], atol=1e-12)
    assert np.isnan(spectral.high_frequency_ratio(np.zeros((1, *shape)), 1.0)).all()


def test_spectral_error_messages():
    with pytest.raises(ValueError) as error:
        spectral.radial_spectrum(np.zeros((4, 4, 4)), 1.0)
    assert message(error) == ("volumes must have shape (N, I, J, K), without a channel axis; got (4, 4, 4)")
    with pytest.raises(ValueError) as error:
        spectral.radial_spectrum(np.full((2, 4, 4, 4), np.nan), 1.0)
    assert message(error) == ("volumes must be finite; got NaN or infinity in 2 of 2 volumes: check the model")
    with pytest.raises(ValueError) as error:
        spectral.radial_spectrum(np.zeros((2, 4, 4, 4)), (1.0, 0.0, 1.0))
    assert message(error) == ("spacing_mm must be one or three positive numbers in mm; got (1.0, 0.0, 1.0)")
    with pytest.raises(ValueError) as error:
        spectral.high_frequency_ratio(np.zeros((2, 4, 4, 4)), 1.0, 1.0)
    assert message(error) == "cutoff must lie between 0 and 1, a fraction of Nyquist; got 1.0"


# Anatomy


def radius(side):
    """Distance in voxels from the middle of a cube."""
    axis = np.arange(side) - (side - 1) / 2
    return np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)))


@pytest.fixture
def ball(rng):
    """White core of 9 voxels, grey shell to 14, CSF shell to 18: 0.8, 0.5 and 0.2 with noise of 0.03."""
    r = radius(40)
    x = np.select([r < 9, r < 14, r < 18], [0.8, 0.5, 0.2], 0.0)
    return np.where(x > 0, x + 0.03 * rng.standard_normal(x.shape), 0).astype(np.float32)[None]


TISSUES = ["csf_ml", "gm_ml", "wm_ml", "brain_ml"]


def test_tissue_volumes_of_three_shells_are_those_of_the_spheres(ball):
    def sphere_ml(r):
        return 4 / 3 * np.pi * r**3 * (2 * 1 * 1.5) / 1000

    table = tissues.describe(np.concatenate([ball, ball]), (2.0, 1.0, 1.5))[TISSUES]
    wm, gm, csf = sphere_ml(9), sphere_ml(14) - sphere_ml(9), sphere_ml(18) - sphere_ml(14)
    assert len(table) == 2
    np.testing.assert_allclose(table.to_numpy()[0], [csf, gm, wm, sphere_ml(18)], rtol=0.03)


def test_thresholds_are_where_equal_gaussians_cross(rng):
    sample = np.concatenate([m + 0.05 * rng.standard_normal(4000) for m in (0.2, 0.5, 0.8)])
    np.testing.assert_allclose(tissues.thresholds(sample, 0), (0.35, 0.65), atol=0.01)


def test_constant_and_empty_volumes_have_no_tissues():
    volumes = np.stack([np.zeros((10, 10, 10)), np.full((10, 10, 10), 0.5)])
    expected = [[0, 0, 0, 0], [0, 0, 0, 1]]
    table = tissues.describe(volumes, 1.0)
    np.testing.assert_allclose(table[TISSUES], expected)
    assert np.isnan(table["tissue_contrast"]).all() and (table["ventricle_ml"] == 0).all()
    assert np.isnan(tissues.symmetry(volumes)).all()
    assert tissues.topology(volumes)["betti_0"].tolist() == [0, 1]


def test_contrast_is_the_distance_of_the_means_in_standard_deviations(ball):
    np.testing.assert_allclose(tissues.describe(ball, 1.0)["tissue_contrast"], [(0.8 - 0.5) / 0.03], rtol=0.03)


def test_ventricles_are_the_central_csf(ball):
    hole = radius(40) < 4.5
    volumes = np.where(hole, ball - 0.6, ball)
    got = tissues.describe(np.concatenate([ball, volumes]), 2.0)["ventricle_ml"]
    np.testing.assert_allclose(got, [0, hole.sum() * 8 / 1000], rtol=1e-6)


def test_symmetry_compares_left_and_right_only(rng):
    x = rng.random((1, 10, 12, 14)).astype(np.float32)
    symmetric = x + x[:, ::-1]
    front_back = x + x[:, :, ::-1]
    np.testing.assert_allclose(tissues.symmetry(symmetric), [1], rtol=1e-9)
    assert abs(tissues.symmetry(front_back)[0]) < 0.2


def test_symmetry_of_half_shared_noise_is_one_half(rng):
    x, shared = rng.standard_normal((2, 1, 30, 30, 30))
    volumes = 10 + x + (shared + shared[:, ::-1]) / np.sqrt(2)
    np.testing.assert_allclose(tissues.symmetry(volumes), [0.5], atol=0.03)


def test_components_are_joined_by_corners_and_debris_is_left_out():
    x = np.zeros((1, 12, 12, 12))
    x[0, :3, :3, :3] = x[0, 3:6, 3:6, 3:6] = 1  # touch at one corner
    assert tissues.topology(x)["betti_0"].tolist() == [1]
    x[0, 8:10, 8:10, 8:10] = 1  # 8 voxels: debris
    assert tissues.topology(x)["betti_0"].tolist() == [1]
    x[0, 10, 8, 8] = 1  # the ninth
    assert tissues.topology(x)["betti_0"].tolist() == [2]
