"""Latents: encoded the same in any batch, described as NumPy would, normalised and back."""

import json

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from neuromf import latents, seeds, vae, volumes

SHAPE = (8, 12, 16)


def normal(*shape, key="latents"):
    return torch.randn(shape, generator=seeds.generator("test", key))


@pytest.fixture(scope="module")
def net():
    return vae.initial(vae.COMPACT, None, seed=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five volumes on disk, one brighter to the right, so that a flip is seen."""
    folder = tmp_path_factory.mktemp("volumes")
    ramp = torch.linspace(0, 1, SHAPE[0]).view(-1, 1, 1)
    for k in range(5):
        noise = torch.rand(SHAPE, generator=seeds.generator("test", "volume", k))
        volumes.write_volume(folder / f"{k}.nii.gz", (0.5 * noise + 0.5 * ramp).numpy(), np.eye(4))
    return [folder / f"{k}.nii.gz" for k in range(5)]


@pytest.fixture
def shards(tmp_path):
    """Two shards of three and two scans, and the split of each scan."""
    shift, spread = torch.tensor([1.0, -2.0, 0.0, 5.0]), torch.tensor([0.5, 1.0, 3.0, 2.0])
    paths = []
    for shard, scans in enumerate((["a", "c", "e"], ["b", "d"])):
        key, size = f"shard {shard}", (len(scans), 4, 2, 3, 2)
        moments = {
            "mean": normal(*size, key=key) * spread.view(4, 1, 1, 1) + shift.view(4, 1, 1, 1),
            "std": 0.1 + torch.rand(size, generator=seeds.generator("test", key)),
            "mirrored": normal(*size, key=f"{key} mirrored") * spread.view(4, 1, 1, 1) + shift.view(4, 1, 1, 1),
        }
        torch.save({"scans": scans, **moments}, tmp_path / f"{shard}.pt")
        paths.append(tmp_path / f"{shard}.pt")
    return paths, {"a": "train", "b": "test", "c": "test", "d": "train", "e": "train"}


def message(error):
    return str(error.value)


# --- encoding ----------------------------------------------------------------------------------------


def test_a_scan_has_the_same_latent_whatever_the_batch(net, files):
    whole = latents.encode(net, files, batch=5, mirror=True)
    assert whole.keys() == {"mean", "std", "mirrored"}
    for moment in whole.values():
        assert moment.shape == (5, 4, 2, 3, 4) and moment.dtype == torch.float32
    for batch in (1, 2):
        for name, moment in latents.encode(net, files, batch=batch, mirror=True).items():
            torch.testing.assert_close(moment, whole[name], rtol=0, atol=1e-5)


def test_moments_are_those_of_the_encoder_in_the_order_of_the_files(net, files):
    got = latents.encode(net, files[::-1], batch=2, mirror=False)
    assert got.keys() == {"mean", "std"}
    for k, file in enumerate(files[::-1]):
        volume = torch.from_numpy(volumes.read_volume(file)[0])[None, None]
        for name, moment in zip(("mean", "std"), net.encode(volume), strict=True):
            torch.testing.assert_close(got[name][k], moment[0], rtol=0, atol=1e-5)


def test_a_mirror_is_the_latent_of_the_flipped_image_not_the_flipped_latent(net, files, tmp_path):
    flipped = []
    for file in files:
        volume, affine = volumes.read_volume(file)
        volumes.write_volume(tmp_path / file.name, volume[::-1], affine)
        flipped.append(tmp_path / file.name)
    got = latents.encode(net, files, batch=5, mirror=True)
    torch.testing.assert_close(
        got["mirrored"], latents.encode(net, flipped, batch=5, mirror=False)["mean"], rtol=0, atol=1e-5
    )
    assert (got["mirrored"] - got["mean"]).abs().max() > 0.01
    assert (got["mirrored"] - got["mean"].flip(latents.LEFT_RIGHT)).abs().max() > 0.01


def test_decoding_one_by_one_is_decoding_and_stays_in_range(net):
    latent = 3 * normal(3, 4, 2, 3, 4)
    got = latents.decode(net, latent)
    assert got.shape == (3, *SHAPE) and got.min() == 0 and got.max() <= 1
    torch.testing.assert_close(got, net.decode(latent)[:, 0].clamp(0, 1), rtol=0, atol=1e-5)


# --- shards and splits -------------------------------------------------------------------------------


def test_several_shards_become_one_in_their_order(shards):
    paths, _ = shards
    first, second = (torch.load(path, weights_only=True) for path in paths)
    joined = latents.load_shards(paths)
    assert joined["scans"] == ["a", "c", "e", "b", "d"]
    for name in ("mean", "std", "mirrored"):
        assert torch.equal(joined[name], torch.cat([first[name], second[name]]))
    assert latents.load_shards(paths[::-1])["scans"] == ["b", "d", "a", "c", "e"]
    assert torch.equal(latents.load_shards(paths[:1])["mean"], first["mean"])


@pytest.mark.parametrize("first", [True, False])
def test_a_shard_without_any_usable_scan_is_left_out(shards, net, tmp_path, first):
    paths, _ = shards
    torch.save({"scans": [], **latents.encode(net, [], batch=2, mirror=True)}, tmp_path / "empty.pt")
    some = [tmp_path / "empty.pt", *paths] if first else [*paths, tmp_path / "empty.pt"]
    joined, wanted = latents.load_shards(some), latents.load_shards(paths)
    assert joined["scans"] == wanted["scans"] and torch.equal(joined["mean"], wanted["mean"])


def test_a_split_is_its_scans_and_their_moments(shards):
    paths, splits = shards
    joined = latents.load_shards(paths)
    train = latents.of_split(joined, splits, "train")
    assert train["scans"] == ["a", "e", "d"]
    for name in ("mean", "std", "mirrored"):
        assert torch.equal(train[name], joined[name][[0, 2, 4]])
    nobody = latents.of_split(joined, splits, "val")
    assert nobody["scans"] == [] and nobody["mean"].shape == (0, 4, 2, 3, 2)


def test_P1_T6_training_latents_have_their_shape_type_and_normalisation(shards):
    paths, splits = shards
    train = latents.of_split(latents.load_shards(paths), splits, "train")
    stats = latents.statistics(train["mean"], train["std"])
    data = latents.training_set(paths, splits, stats)
    assert data.shape == (6, 4, 2, 3, 2) and data.dtype == torch.float32 and data.isfinite().all()
    people = data[:3].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(people.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(people.std(1, correction=0), torch.ones(4).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(data[3:], latents.normalise(train["mirrored"], stats))


def test_P1_T6_training_latents_without_mirrors_are_the_people_alone(shards, tmp_path):
    paths, splits = shards
    for path in paths:
        shard = torch.load(path, weights_only=True)
        torch.save({name: shard[name] for name in ("scans", "mean", "std")}, tmp_path / path.name)
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4}
    got = latents.training_set([tmp_path / path.name for path in paths], splits, stats)
    assert torch.equal(got, latents.of_split(latents.load_shards(paths), splits, "train")["mean"])


# --- statistics --------------------------------------------------------------------------------------


def test_statistics_are_those_of_numpy_and_scipy():
    mean, std = normal(6, 4, 3, 4, 5) ** 3 + 2, normal(6, 4, 3, 4, 5, key="std").exp()
    got = latents.statistics(mean, std, n_components=3)
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
    np.testing.assert_allclose(got["pca_share"], (singular**2 / np.sum(singular**2))[:3], rtol=1e-6)
    assert got["n"] == 6 and got["shape"] == [4, 3, 4, 5]


def test_statistics_survive_their_file(tmp_path):
    stats = latents.statistics(normal(3, 4, 2, 2, 2), normal(3, 4, 2, 2, 2).exp())
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    assert latents.read_stats(tmp_path / "stats.json") == stats


def with_spectrum(variances, n=12):
    """Latents of n people, centred, that differ along orthonormal directions with exactly these variances (sums)."""
    people = torch.linalg.qr(torch.cat([torch.ones(n, 1), normal(n, len(variances), key="people")], 1).double())[0]
    axes = torch.linalg.qr(normal(32, len(variances), key="axes").double())[0]
    x = (people[:, 1:] * torch.tensor(variances).double().sqrt()) @ axes.T
    return (7 + x).view(n, 4, 2, 2, 2)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_people_who_differ_in_k_equal_ways_have_an_effective_rank_of_k(k):
    assert latents.effective_rank(with_spectrum([2.5] * k)) == pytest.approx(k, rel=1e-6)
    np.testing.assert_allclose(latents.pca_share(with_spectrum([2.5] * k), k), [1 / k] * k, rtol=1e-6)


def test_effective_rank_of_unequal_ways_is_the_exponential_of_their_entropy():
    share = np.array([0.5, 0.25, 0.125, 0.125])
    expected = np.exp(scipy_stats.entropy(share))
    assert latents.effective_rank(with_spectrum((8 * share).tolist())) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(latents.pca_share(with_spectrum((8 * share).tolist()), 4), share, rtol=1e-6)


# --- normalisation -----------------------------------------------------------------------------------

STATS = {"mean": [1.0, -2.0, 0.0, 5.0], "std": [0.5, 1.0, 3.0, 2.0]}


def test_normalise_and_denormalise_are_inverse():
    latent = normal(2, 4, 3, 4, 5).double()
    torch.testing.assert_close(latents.denormalise(latents.normalise(latent, STATS), STATS), latent)
    torch.testing.assert_close(latents.normalise(latents.denormalise(latent, STATS), STATS), latent)


def test_normalising_takes_each_channel_by_its_own_statistics():
    latent = torch.stack([torch.full((2, 3, 4), value) for value in (1.5, -2.0, 6.0, 3.0)])[None]
    got = latents.normalise(latent, STATS)
    assert got.dtype == latent.dtype
    assert torch.equal(got[0].flatten(1).amax(1), torch.tensor([1.0, 0.0, 2.0, -1.0]))
    assert torch.equal(latents.denormalise(torch.zeros(1, 4, 1, 1, 1), STATS).flatten(), torch.tensor(STATS["mean"]))


@pytest.mark.parametrize("convert", [latents.normalise, latents.denormalise])
def test_statistics_of_other_channels_are_refused(convert):
    with pytest.raises(ValueError) as error:
        convert(normal(2, 8, 3, 3, 3), STATS)
    assert message(error) == "statistics are of 4 channels, latents have 8: wrong stats.json?"
