"""Latents: encoded once and the same everywhere, described as NumPy would, normalised and back."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

from neuromf.core import seeds
from neuromf.data import augmentation, nifti
from neuromf.figures import latents as figure
from neuromf.vae import latents, maisi, statistics, training_set, weights
from neuromf.vae.shards import check_shards, load_shards, load_split, select_split
from workflow_scripts import encode as encode_script
from workflow_scripts import latents as latents_script
from workflow_scripts import stats as stats_script

SHAPE = (8, 12, 16)


def normal(*shape, key="latents"):
    return torch.randn(shape, generator=seeds.generator("test", key))


@pytest.fixture(scope="module")
def net():
    return weights.build_autoencoder(maisi.COMPACT, None, seed=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five volumes on disk, one brighter to the right, so that a flip is seen."""
    folder = tmp_path_factory.mktemp("volumes")
    ramp = torch.linspace(0, 1, SHAPE[0]).view(-1, 1, 1)
    for k in range(5):
        noise = torch.rand(SHAPE, generator=seeds.generator("test", "volume", k))
        nifti.write_volume(folder / f"{k}.nii.gz", (0.5 * noise + 0.5 * ramp).numpy(), np.eye(4))
    return [folder / f"{k}.nii.gz" for k in range(5)]


@pytest.fixture
def table(files):
    """Five accepted volumes, those of even number in training."""
    splits = ["train" if k % 2 == 0 else "test" for k in range(len(files))]
    return pd.DataFrame({"scan": [f"s{k}" for k in range(len(files))], "split": splits, "volume": map(str, files)})


@pytest.fixture
def encoded(net, table, tmp_path):
    """Encodes some rows of the table and gives the shard."""

    def make(rows=slice(None), name="shard", net=net, **settings):
        latents.encode_shard(net, table.iloc[rows], tmp_path / f"{name}.pt", **settings)
        assert not (tmp_path / f"{name}.parts").exists()
        return torch.load(tmp_path / f"{name}.pt", weights_only=True)

    return make


@pytest.fixture
def shards(tmp_path):
    """Two shards of three and two scans, mirrors of those in training, and the split of each scan."""
    shift, spread = torch.tensor([1.0, -2.0, 0.0, 5.0]), torch.tensor([0.5, 1.0, 3.0, 2.0])
    paths = []
    for shard, (scans, copied) in enumerate(((["a", "c", "e"], ["a", "a", "e"]), (["b", "d"], ["d"]))):
        key = f"shard {shard}"
        size, n_copies = (len(scans), 4, 2, 3, 2), len(copied)
        moments = {
            "mean": normal(*size, key=key) * spread.view(4, 1, 1, 1) + shift.view(4, 1, 1, 1),
            "std": 0.1 + torch.rand(size, generator=seeds.generator("test", key)),
            "copies": normal(n_copies, *size[1:], key=f"{key} copies") * spread.view(4, 1, 1, 1),
        }
        torch.save({"scans": scans, "copied": copied, **moments}, tmp_path / f"{shard}.pt")
        paths.append(tmp_path / f"{shard}.pt")
    return paths, {"a": "train", "b": "test", "c": "test", "d": "train", "e": "train"}


def message(error):
    return str(error.value)


# --- encoding ----------------------------------------------------------------------------------------


def test_a_shard_holds_the_moments_of_the_encoder_and_copies_of_training_scans_alone(net, files, encoded):
    shard = encoded(mirror=True)
    assert shard["scans"] == ["s0", "s1", "s2", "s3", "s4"] and shard["copied"] == ["s0", "s2", "s4"]
    for k, file in enumerate(files):
        volume = torch.from_numpy(nifti.read_volume(file)[0])[None, None]
        mean, std = net.encode(volume)
        assert torch.equal(shard["mean"][k], mean[0]) and torch.equal(shard["std"][k], std[0])
        if k % 2 == 0:
            assert torch.equal(shard["copies"][k // 2], net.encode(volume.flip(2))[0][0])
    assert {shard[name].dtype for name in ("mean", "std", "copies")} == {torch.float32}


def test_a_mirror_is_not_the_flipped_latent(encoded):
    shard = encoded(mirror=True)
    train = shard["mean"][::2]
    assert (shard["copies"] - train).abs().max() > 0.01
    assert (shard["copies"] - train.flip(2)).abs().max() > 0.01


def test_without_mirror_and_copies_there_are_none(encoded):
    shard = encoded(mirror=False)
    assert shard["copied"] == [] and shard["copies"].shape == (0, 4, 2, 3, 4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_scan_has_the_same_bytes_in_any_shard_and_order(encoded, precision):
    settings = {"mirror": True, "copies": 2, "precision": precision}
    whole = encoded(**settings)
    for rows in ([4, 2, 0, 3, 1], [2], [3, 4]):
        other = encoded(rows, **settings)
        for name, moments in (("scans", ("mean", "std")), ("copied", ("copies",))):
            for moment in moments:
                for scan in dict.fromkeys(other[name]):
                    mine, theirs = ([k for k, s in enumerate(x[name]) if s == scan] for x in (whole, other))
                    assert torch.equal(whole[moment][mine], other[moment][theirs]), (scan, moment)


@pytest.mark.parametrize("shape", [(8, 12, 16), (64, 80, 64)])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_cpu_neither_batch_nor_neighbours_change_a_bit(net, shape, precision):
    volume = torch.rand(3, 1, *shape, generator=seeds.generator("test", "batch"))
    together = maisi.evaluate(net, "encode", volume, precision=precision)
    for k in range(3):
        alone = maisi.evaluate(net, "encode", volume[k : k + 1], precision=precision)
        assert all(torch.equal(a[0], b[k]) for a, b in zip(alone, together, strict=True))
    pair = maisi.evaluate(net, "decode", together[0][:2], precision=precision)[0]
    assert torch.equal(pair[:1], maisi.evaluate(net, "decode", together[0][:1], precision=precision)[0])


def test_augmented_copies_are_latents_of_changed_images(net, files, encoded):
    amounts = {"rotation_deg": 10.0, "gamma": 0.4}
    shard = encoded([2], mirror=False, copies=2, augmentation=amounts, seed=3)
    volume, affine = nifti.read_volume(files[2])
    for k in range(2):
        change = augmentation.draw(3, "s2", k, amounts=amounts)
        changed = torch.from_numpy(augmentation.apply(volume, change, spacing_mm=1.0))
        assert torch.equal(shard["copies"][k], net.encode(changed[None, None])[0][0])
    assert shard["copied"] == ["s2", "s2"] and not torch.equal(shard["copies"][0], shard["copies"][1])


def test_bf16_is_close_to_float32_and_stored_as_float32(encoded):
    exact, half = (encoded(mirror=False, precision=precision) for precision in ("float32", "bf16"))
    assert half["mean"].dtype == torch.float32 and not torch.equal(half["mean"], exact["mean"])
    assert (half["mean"] - exact["mean"]).abs().mean() < 0.02 * exact["mean"].std()


class Counted:
    """Counts encodes of an autoencoder, and fails at one of them if told."""

    def __init__(self, monkeypatch, fail_at=None):
        self.n, self.exact = 0, maisi.MAISIVAEWrapper.encode

        def encode(net, volume):
            self.n += len(volume)
            if self.n == fail_at:
                raise KeyboardInterrupt
            return self.exact(net, volume)

        monkeypatch.setattr(maisi.MAISIVAEWrapper, "encode", encode)


def test_a_stopped_job_goes_on_at_the_volume_it_was_stopped_at(encoded, monkeypatch, tmp_path):
    expected = encoded(mirror=True, copies=1)
    with pytest.raises(KeyboardInterrupt):
        Counted(monkeypatch, fail_at=5)
        encoded(name="stopped", mirror=True, copies=1)
    assert len(list((tmp_path / "stopped.parts").iterdir())) == 4 and not (tmp_path / "stopped.pt").exists()
    monkeypatch.undo()
    counted = Counted(monkeypatch)
    got = encoded(name="stopped", mirror=True, copies=1)
    assert counted.n == 11 - 4
    for name in ("mean", "std", "copies"):
        assert torch.equal(got[name], expected[name])


def stop_after_all_parts(encoded, monkeypatch, **settings):
    """Stops a job when every part is there and the shard is not."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(latents, "_as_shard", stop)
        encoded(name="stopped", **settings)


@pytest.mark.parametrize(
    ("changed", "n"),
    [({}, 0), ({"made_by": "other weights"}, 11), ({"precision": "bf16"}, 11), ({"copies": 2}, 3), ({"seed": 1}, 3),
     ({"augmentation": {"gamma": 0.5}}, 3), ({"mirror": False}, 3)],
    ids=str,
)  # fmt: skip
def test_what_waits_is_taken_only_if_made_the_same_way(encoded, monkeypatch, changed, n):
    settings = {"mirror": True, "copies": 1, "made_by": "weights"}
    stop_after_all_parts(encoded, monkeypatch, **settings)
    counted = Counted(monkeypatch)
    encoded(name="stopped", **{**settings, **changed})
    assert counted.n == n


def test_what_waits_is_not_taken_for_other_bytes_nor_where_it_is_damaged(encoded, table, monkeypatch, tmp_path):
    for k in range(2):
        file = tmp_path / f"{k}.nii.gz"
        file.write_bytes(open(table.loc[k, "volume"], "rb").read())
        table.loc[k, "volume"] = str(file)
    stop_after_all_parts(encoded, monkeypatch, rows=[0, 1], mirror=False)
    nifti.write_volume(table.loc[1, "volume"], np.full(SHAPE, 0.5), np.eye(4))
    (tmp_path / "stopped.parts" / "s0.0.pt").write_bytes(b"half a fi")
    counted = Counted(monkeypatch)
    encoded([0, 1], name="stopped", mirror=False)
    assert counted.n == 2


KILLED = """
import os, signal, sys
from neuromf import vae
from workflow_scripts import encode
exact, calls = vae.MAISIVAEWrapper.encode, []
def killed_at_the_third(net, volume):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return exact(net, volume)
vae.MAISIVAEWrapper.encode = killed_at_the_third
encode.main(sys.argv[1:])
"""
CONFIG = {"mirror": True, "copies": 0, "augmentation": {}, "precision": "float32", "seed": 0}


@pytest.fixture
def command(net, table, tmp_path):
    """The command line of the script for a folder of volumes, one set aside among them, and weights."""
    aside = pd.DataFrame([{"scan": "bad", "split": "train", "volume": "", "status": "quarantined"}])
    rows = pd.concat([table.assign(status="accepted"), aside])
    rows.to_csv(tmp_path / "qc.tsv", sep="\t", index=False)
    weights.save_weights(net, tmp_path / "vae.safetensors")
    named = {"folder": tmp_path, "weights": tmp_path / "vae.safetensors", "config": json.dumps(CONFIG)}
    return [word for name, value in named.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_a_killed_job_loses_the_volume_in_flight_and_nothing_else(command, encoded, monkeypatch, tmp_path):
    out = ["--out", str(tmp_path / "0.pt")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, *out], check=False, capture_output=True)
    assert killed.returncode == -9 and not (tmp_path / "0.pt").exists()
    counted = Counted(monkeypatch)
    encode_script.main([*command, *out])
    assert counted.n == 8 - 2
    got, expected = torch.load(tmp_path / "0.pt", weights_only=True), encoded(mirror=True)
    assert all(torch.equal(got[name], expected[name]) for name in ("mean", "std", "copies"))


def test_the_scripts_encode_what_was_accepted_and_describe_it(command, table, tmp_path, monkeypatch):
    monkeypatch.setattr(
        stats_script, "ssim", lambda a, b: np.array([1.0] * len(a))
    )  # windows do not fit so small heads
    encode_script.main([*command, "--out", str(tmp_path / "0.pt")])
    config = json.dumps({"n_validated": 2, "precision": "float32"})
    where = ["--latents", str(tmp_path / "0.pt"), "--qc", str(tmp_path / "qc.tsv")]
    where += ["--weights", str(tmp_path / "vae.safetensors")]
    stats_script.main([*where, "--config", config, "--out", str(tmp_path / "stats.json")])
    stats = statistics.read_stats(tmp_path / "stats.json")
    assert (stats["n"], stats["encoded"], stats["copies"], stats["finite"]) == (3, 5, 3, True)
    assert stats["shapes"] == [str(stats["shape"])] and len(stats["roundtrip_ssim"]) == 2
    assert stats["flip_error"] > 0.01 and stats["psnr_of_flipped_latents"] != stats["psnr_of_flipped_volumes"]


def test_decoding_one_by_one_is_decoding_and_stays_in_range(net):
    latent = 3 * normal(3, 4, 2, 3, 4)
    got = latents.decode(net, latent)
    assert got.shape == (3, *SHAPE) and got.min() == 0 and got.max() <= 1
    torch.testing.assert_close(got, net.decode(latent)[:, 0].clamp(0, 1), rtol=0, atol=1e-5)
    half = latents.decode(net, latent, precision="bf16")
    assert half.dtype == torch.float32 and 0 < (half - got).abs().mean() < 0.01


def test_volumes_are_decoded_as_they_are_asked_for(net, monkeypatch):
    asked, exact = [], net.decode
    monkeypatch.setattr(net, "decode", lambda z: asked.append(len(z)) or exact(z))
    stream = latents.decode_each(net, normal(3, 4, 2, 3, 4))
    assert next(stream).shape == SHAPE and asked == [1]


# --- shards and splits -------------------------------------------------------------------------------


def test_several_shards_become_one_in_their_order(shards):
    paths, _ = shards
    first, second = (torch.load(path, weights_only=True) for path in paths)
    joined = load_shards(paths)
    assert joined["scans"] == ["a", "c", "e", "b", "d"] and joined["copied"] == ["a", "a", "e", "d"]
    for name in ("mean", "std", "copies"):
        assert torch.equal(joined[name], torch.cat([first[name], second[name]]))
    assert load_shards(paths[::-1])["scans"] == ["b", "d", "a", "c", "e"]
    assert torch.equal(load_shards(paths[:1])["mean"], first["mean"])


@pytest.mark.parametrize("first", [True, False])
def test_a_shard_without_any_usable_scan_is_left_out(shards, encoded, tmp_path, first):
    paths, splits = shards
    encoded([], name="empty")
    some = [tmp_path / "empty.pt", *paths] if first else [*paths, tmp_path / "empty.pt"]
    joined, wanted = load_shards(some), load_shards(paths)
    assert joined["scans"] == wanted["scans"] and torch.equal(joined["mean"], wanted["mean"])
    assert check_shards(some) == check_shards(paths)
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4}
    assert torch.equal(
        training_set.load_training_set(some, splits, stats), training_set.load_training_set(paths, splits, stats)
    )


def test_no_usable_scan_anywhere_is_said(encoded, tmp_path):
    encoded([], name="empty")
    with pytest.raises(ValueError) as error:
        load_shards([tmp_path / "empty.pt"])
    assert message(error) == "no scan in any of 1 shards: all were set aside, each with its reason in qc.tsv"


def test_a_shard_of_another_version_is_refused(tmp_path):
    torch.save({"scans": ["a"], "mean": normal(1), "std": normal(1), "mirrored": normal(1)}, tmp_path / "old.pt")
    with pytest.raises(ValueError) as error:
        load_shards([tmp_path / "old.pt"])
    assert message(error) == (
        f"{tmp_path / 'old.pt'} holds mean, mirrored, scans, std, wanted copied, copies, mean, scans, std: "
        "another version made it; encode again"
    )


def test_a_split_is_its_scans_their_moments_and_copies(shards):
    paths, splits = shards
    joined = load_shards(paths)
    train = select_split(joined, splits, "train")
    assert train["scans"] == ["a", "e", "d"] and train["copied"] == ["a", "a", "e", "d"]
    for name in ("mean", "std"):
        assert torch.equal(train[name], joined[name][[0, 2, 4]])
    test = select_split(joined, splits, "test")
    assert test["copied"] == [] and test["copies"].shape == (0, 4, 2, 3, 2)
    nobody = select_split(joined, splits, "val")
    assert nobody["scans"] == [] and nobody["mean"].shape == (0, 4, 2, 3, 2)


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_loading_a_split_is_splitting_what_is_loaded(shards, split):
    paths, splits = shards
    for some in (paths, paths[:1]):
        got, wanted = (
            load_split(some, splits, split),
            select_split(load_shards(some), splits, split),
        )
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            assert torch.equal(got[name], value) if torch.is_tensor(value) else got[name] == value


def test_the_census_counts_all_and_sees_what_is_not_finite(shards):
    paths, _ = shards
    assert check_shards(paths) == {"encoded": 5, "copies": 4, "shapes": ["[4, 2, 3, 2]"], "finite": True}
    for name in ("mean", "std", "copies"):
        shard = torch.load(paths[1], weights_only=True)
        shard[name][0, 0, 0, 0, 0] = float("inf")
        torch.save(shard, paths[1].with_name("broken.pt"))
        assert not check_shards([paths[0], paths[1].with_name("broken.pt")])["finite"]


def test_P1_T6_training_latents_have_their_shape_type_and_normalisation(shards):
    paths, splits = shards
    train = select_split(load_shards(paths), splits, "train")
    stats = statistics.statistics(train["mean"], train["std"])
    data = training_set.load_training_set(paths, splits, stats)
    assert data.shape == (7, 4, 2, 3, 2) and data.dtype == torch.float32 and data.isfinite().all()
    people = data[:3].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(people.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(people.std(1, correction=0), torch.ones(4).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(data[:3], statistics.normalise(train["mean"], stats))
    torch.testing.assert_close(data[3:], statistics.normalise(train["copies"], stats))
    assert torch.equal(training_set.load_training_set(paths, splits, stats, copies=False), data[:3])


def test_training_latents_that_stay_on_disk_are_the_same_bits(shards):
    paths, splits = shards
    train = select_split(load_shards(paths), splits, "train")
    stats = statistics.statistics(train["mean"], train["std"])
    data = training_set.load_training_set(paths, splits, stats)
    stored = training_set.load_training_set(paths, splits, stats, resident_mb=data.nbytes / 1e6 * 0.999)
    assert isinstance(stored, training_set.MemoryMappedLatents) and isinstance(data, torch.Tensor)
    assert (len(stored), stored.shape, stored.dtype) == (len(data), data.shape, data.dtype)
    some = torch.tensor([6, 0, 3, 3])
    assert torch.equal(stored[some], data[some]) and torch.equal(stored[1:], data[1:])
    assert torch.equal(training_set.load_training_set(paths, splits, stats, resident_mb=data.nbytes / 1e6), data)


def test_P1_T6_training_latents_without_copies_are_the_people_alone(shards, tmp_path):
    paths, splits = shards
    for path in paths:
        shard = torch.load(path, weights_only=True)
        torch.save({**shard, "copies": shard["copies"][:0], "copied": []}, tmp_path / f"bare-{path.name}")
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4}
    got = training_set.load_training_set([tmp_path / f"bare-{path.name}" for path in paths], splits, stats)
    assert torch.equal(got, select_split(load_shards(paths), splits, "train")["mean"])


# --- statistics --------------------------------------------------------------------------------------


def test_statistics_are_those_of_numpy_and_scipy():
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
    np.testing.assert_allclose(got["pca_share"], (singular**2 / np.sum(singular**2))[:3], rtol=1e-6)
    assert got["n"] == 6 and got["shape"] == [4, 3, 4, 5]
    share = singular**2 / np.sum(singular**2)
    assert got["effective_rank"] == pytest.approx(np.exp(scipy_stats.entropy(share)))


def test_histograms_count_every_value_those_beyond_in_the_outermost_bins():
    mean = normal(40, 4, 2, 3, 2) * torch.tensor([1.0, 5.0, 0.1, 2.0]).view(4, 1, 1, 1) + 3
    mean[0, 0, 0, 0, 0] = 100.0
    histogram = statistics.statistics(mean, mean.exp())["histogram"]
    assert np.array_equal(histogram["edges"], statistics.EDGES) and np.shape(histogram["counts"]) == (4, 160)
    for counts, values in zip(histogram["counts"], mean.transpose(0, 1).flatten(1).double().numpy(), strict=True):
        z = (values - values.mean()) / values.std()
        assert sum(counts) == z.size == 480
        assert sum(counts[:80]) == np.sum(z < 0) and sum(counts[90:]) == np.sum(z >= 1)
    assert histogram["counts"][0][-1] == 1


def test_people_are_summed_up_a_few_at_a_time(monkeypatch):
    mean = normal(70, 4, 2, 2, 2)
    whole = statistics.statistics(mean, mean.exp())
    exact = statistics._chunks
    monkeypatch.setattr(statistics, "_chunks", lambda latent: exact(latent, people=9))
    for name, value in statistics.statistics(mean, mean.exp()).items():
        if name != "histogram":
            np.testing.assert_allclose(value, whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


def principal(mean):
    """Effective rank and shares of variance of latents."""
    found = statistics.statistics(mean, mean.exp())
    return found["effective_rank"], found["pca_share"]


def test_principal_components_of_very_many_are_those_of_every_so_manyth(monkeypatch):
    mean = normal(50, 4, 2, 2, 2)
    monkeypatch.setattr(statistics, "PCA_PEOPLE", 20)
    assert principal(mean) == principal(mean[::3])


def test_nobody_in_training_is_said():
    with pytest.raises(ValueError) as error:
        statistics.statistics(torch.empty(0, 4, 2, 2, 2), torch.empty(0, 4, 2, 2, 2))
    assert message(error) == ("no training latents to describe: no accepted scan is in split train; see cohort.split")


def test_statistics_survive_their_file(tmp_path):
    stats = statistics.statistics(normal(3, 4, 2, 2, 2), normal(3, 4, 2, 2, 2).exp())
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    assert statistics.read_stats(tmp_path / "stats.json") == stats


def with_spectrum(variances, n=12):
    """Latents of n people, centred, that differ along orthonormal directions with exactly these variances (sums)."""
    people = torch.linalg.qr(torch.cat([torch.ones(n, 1), normal(n, len(variances), key="people")], 1).double())[0]
    axes = torch.linalg.qr(normal(32, len(variances), key="axes").double())[0]
    x = (people[:, 1:] * torch.tensor(variances).double().sqrt()) @ axes.T
    return (7 + x).view(n, 4, 2, 2, 2)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_people_who_differ_in_k_equal_ways_have_an_effective_rank_of_k(k):
    rank, share = principal(with_spectrum([2.5] * k))
    assert rank == pytest.approx(k, rel=1e-6)
    np.testing.assert_allclose(share[:k], [1 / k] * k, rtol=1e-6)


def test_effective_rank_of_unequal_ways_is_the_exponential_of_their_entropy():
    share = np.array([0.5, 0.25, 0.125, 0.125])
    expected = np.exp(scipy_stats.entropy(share))
    rank, found = principal(with_spectrum((8 * share).tolist()))
    assert rank == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found[:4], share, rtol=1e-6)


# --- normalisation -----------------------------------------------------------------------------------

STATS = {"mean": [1.0, -2.0, 0.0, 5.0], "std": [0.5, 1.0, 3.0, 2.0]}


def test_normalise_and_denormalise_are_inverse():
    latent = normal(2, 4, 3, 4, 5).double()
    torch.testing.assert_close(statistics.denormalise(statistics.normalise(latent, STATS), STATS), latent)
    torch.testing.assert_close(statistics.normalise(statistics.denormalise(latent, STATS), STATS), latent)


def test_normalising_takes_each_channel_by_its_own_statistics():
    latent = torch.stack([torch.full((2, 3, 4), value) for value in (1.5, -2.0, 6.0, 3.0)])[None]
    got = statistics.normalise(latent, STATS)
    assert got.dtype == latent.dtype
    assert torch.equal(got[0].flatten(1).amax(1), torch.tensor([1.0, 0.0, 2.0, -1.0]))
    assert torch.equal(statistics.denormalise(torch.zeros(1, 4, 1, 1, 1), STATS).flatten(), torch.tensor(STATS["mean"]))


@pytest.mark.parametrize("convert", [statistics.normalise, statistics.denormalise])
def test_statistics_of_other_channels_are_refused(convert):
    with pytest.raises(ValueError) as error:
        convert(normal(2, 8, 3, 3, 3), STATS)
    assert message(error) == "statistics are of 4 channels, latents have 8: wrong stats.json?"


# --- the figure --------------------------------------------------------------------------------------


@pytest.fixture
def drawn():
    """The figure of latents that are known."""
    mean = normal(12, 4, 3, 4, 5) + torch.tensor([0.0, 1.0, 2.0, 3.0]).view(4, 1, 1, 1)
    stats = statistics.statistics(mean, mean.exp())
    validation = {"sigma_inside": [0.1, 0.2, 0.3, 0.4], "sigma_outside": [0.2, None, 0.4, 0.5]}
    return stats, figure.latents(stats, validation)


def test_the_figure_shows_each_channel_as_a_density_over_the_normal_law(drawn):
    stats, fig = drawn
    stairs = [patch for patch in fig.axes[0].patches if hasattr(patch, "get_data")]
    assert len(stairs) == 4
    for patch, counts in zip(stairs, stats["histogram"]["counts"], strict=True):
        values, edges, _ = patch.get_data()
        expected = np.array(counts) / 720 / np.diff(statistics.EDGES)
        np.testing.assert_allclose(np.nan_to_num(values), np.where(expected < figure.LEAST, 0, expected))
        assert np.array_equal(edges, statistics.EDGES)
    z, density = fig.axes[0].lines[0].get_xydata().T
    np.testing.assert_allclose(density, scipy_stats.norm.pdf(z), rtol=1e-9)


def test_the_figure_shows_correlations_components_and_widths_as_they_are(drawn):
    stats, fig = drawn
    assert np.array_equal(fig.axes[1].images[0].get_array(), stats["correlation"])
    assert [text.get_text() for text in fig.axes[1].texts[:2]] == ["$1.00$", f"${stats['correlation'][0][1]:.2f}$"]
    cumulated, share, rank = fig.axes[3].lines  # the third belongs to the scale of colours
    np.testing.assert_allclose(share.get_ydata(), stats["pca_share"][:11])  # 12 people differ in 11 ways
    np.testing.assert_allclose(cumulated.get_ydata(), np.cumsum(stats["pca_share"][:11]))
    assert rank.get_xdata()[0] == stats["effective_rank"]
    heights = [bar.get_height() for bar in fig.axes[4].patches]
    np.testing.assert_array_equal(heights, [0.1, 0.2, 0.3, 0.4, 0.2, np.nan, 0.4, 0.5])


def test_the_script_draws_the_figure_from_its_files(tmp_path, drawn):
    stats, _ = drawn
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    (tmp_path / "validation.json").write_text(json.dumps({"sigma_inside": [0.1] * 4, "sigma_outside": [0.2] * 4}))
    where = ["--stats", str(tmp_path / "stats.json"), "--validation", str(tmp_path / "validation.json")]
    latents_script.main([*where, "--config", '{"study": "test"}', "--out", str(tmp_path / "latents")])
    assert json.loads((tmp_path / "latents.json").read_text()) == {"study": "test"}
    assert all((tmp_path / f"latents.{suffix}").stat().st_size > 1000 for suffix in ("pdf", "png"))
