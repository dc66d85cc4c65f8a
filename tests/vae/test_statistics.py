"""Statistics of latents equal those of NumPy and SciPy; normalisation is exact and invertible."""

import json

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from neuromf.core import seeds
from neuromf.vae import statistics

STATS = {"mean": [1.0, -2.0, 0.0, 5.0], "std": [0.5, 1.0, 3.0, 2.0]}


def normal(*shape, key="latents"):
    return torch.randn(shape, generator=seeds.generator("test", key))


def message(error):
    return str(error.value)


def test_statistics_equal_those_of_numpy_and_scipy():
    mean, std = normal(6, 4, 3, 4, 5) ** 3 + 2, normal(6, 4, 3, 4, 5, key="std").exp()
    got = statistics.statistics(mean, std, n_components=3)
    x = mean.double().numpy().transpose(1, 0, 2, 3, 4).reshape(4, -1)
    expected = {
        "mean": np.mean(x, axis=1),
        "std": np.std(x, axis=1),
        "skewness": scipy_stats.skew(x, axis=1),
        "kurtosis": scipy_stats.kurtosis(x, axis=1),
        "posterior_std": std.double().numpy().transpose(1, 0, 2, 3, 4).reshape(4, -1).mean(1),
        "correlation": np.corrcoef(x),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-9, err_msg=name)
    singular = np.linalg.svd(mean.double().flatten(1) - mean.double().flatten(1).mean(0), compute_uv=False)
    np.testing.assert_allclose(got["pca_fraction"], (singular**2 / np.sum(singular**2))[:3], rtol=1e-6)
    assert got["n"] == 6 and got["shape"] == [4, 3, 4, 5]
    fraction = singular**2 / np.sum(singular**2)
    assert got["effective_rank"] == pytest.approx(np.exp(scipy_stats.entropy(fraction)))


def test_histograms_count_every_value_and_have_open_outermost_bins():
    mean = normal(40, 4, 2, 3, 2) * torch.tensor([1.0, 5.0, 0.1, 2.0]).view(4, 1, 1, 1) + 3
    mean[0, 0, 0, 0, 0] = 100.0
    histogram = statistics.statistics(mean, mean.exp())["histogram"]
    assert np.array_equal(histogram["edges"], statistics.EDGES) and np.shape(histogram["counts"]) == (4, 160)
    for counts, values in zip(histogram["counts"], mean.transpose(0, 1).flatten(1).double().numpy(), strict=True):
        z = (values - values.mean()) / values.std()
        assert sum(counts) == z.size == 480
        assert sum(counts[:80]) == np.sum(z < 0) and sum(counts[90:]) == np.sum(z >= 1)
    assert histogram["counts"][0][-1] == 1


def test_statistics_do_not_depend_on_the_chunk_size(monkeypatch):
    mean = normal(70, 4, 2, 2, 2)
    expected = statistics.statistics(mean, mean.exp())
    chunks = statistics._chunks
    monkeypatch.setattr(statistics, "_chunks", lambda latent: chunks(latent, n_scans=9))
    for name, value in statistics.statistics(mean, mean.exp()).items():
        if name != "histogram":
            np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def principal(mean):
    """Effective rank and fractions of variance of the principal components."""
    stats = statistics.statistics(mean, mean.exp())
    return stats["effective_rank"], stats["pca_fraction"]


def test_principal_components_of_many_scans_use_an_even_subsample(monkeypatch):
    mean = normal(50, 4, 2, 2, 2)
    monkeypatch.setattr(statistics, "MAX_PCA_SCANS", 20)
    assert principal(mean) == principal(mean[::3])


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError) as error:
        statistics.statistics(torch.empty(0, 4, 2, 2, 2), torch.empty(0, 4, 2, 2, 2))
    assert message(error) == ("no training latents to describe: no accepted scan is in split train; see cohort.split")


def test_statistics_are_unchanged_by_their_file(tmp_path):
    stats = statistics.statistics(normal(3, 4, 2, 2, 2), normal(3, 4, 2, 2, 2).exp())
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    assert statistics.read_stats(tmp_path / "stats.json") == stats


def with_spectrum(variances, n=12):
    """Centred latents of n scans that differ along orthonormal directions with exactly these variances (sums)."""
    scans = torch.linalg.qr(torch.cat([torch.ones(n, 1), normal(n, len(variances), key="people")], 1).double())[0]
    axes = torch.linalg.qr(normal(32, len(variances), key="axes").double())[0]
    x = (scans[:, 1:] * torch.tensor(variances).double().sqrt()) @ axes.T
    return (7 + x).view(n, 4, 2, 2, 2)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_equal_variances_have_an_effective_rank_of_k(k):
    rank, fraction = principal(with_spectrum([2.5] * k))
    assert rank == pytest.approx(k, rel=1e-6)
    np.testing.assert_allclose(fraction[:k], [1 / k] * k, rtol=1e-6)


def test_effective_rank_is_the_exponential_of_the_entropy():
    fraction = np.array([0.5, 0.25, 0.125, 0.125])
    expected = np.exp(scipy_stats.entropy(fraction))
    rank, measured = principal(with_spectrum((8 * fraction).tolist()))
    assert rank == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(measured[:4], fraction, rtol=1e-6)


def test_normalise_and_denormalise_are_inverse():
    latent = normal(2, 4, 3, 4, 5).double()
    torch.testing.assert_close(statistics.denormalise(statistics.normalise(latent, STATS), STATS), latent)
    torch.testing.assert_close(statistics.normalise(statistics.denormalise(latent, STATS), STATS), latent)


def test_each_channel_is_normalised_by_its_own_statistics():
    latent = torch.stack([torch.full((2, 3, 4), value) for value in (1.5, -2.0, 6.0, 3.0)])[None]
    got = statistics.normalise(latent, STATS)
    assert got.dtype == latent.dtype
    assert torch.equal(got[0].flatten(1).amax(1), torch.tensor([1.0, 0.0, 2.0, -1.0]))
    assert torch.equal(statistics.denormalise(torch.zeros(1, 4, 1, 1, 1), STATS).flatten(), torch.tensor(STATS["mean"]))


@pytest.mark.parametrize("convert", [statistics.normalise, statistics.denormalise])
def test_statistics_with_another_number_of_channels_are_refused(convert):
    with pytest.raises(ValueError) as error:
        convert(normal(2, 8, 3, 3, 3), STATS)
    assert message(error) == "stats.json describes 4 channels, latents have 8: wrong file?"
