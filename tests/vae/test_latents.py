"""Encoding of volumes into shards, selection of splits, and the training set of a run."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.core import hardware, seeds
from neuromf.data import augmentation, nifti
from neuromf.metrics import autoencoder
from neuromf.metrics.images import equivariance
from neuromf.vae import latents, maisi, statistics, training_set, weights
from neuromf.vae.shards import ROW_NAMES, check_shards, load_split, select_split
from workflow_scripts import encode as encode_script
from workflow_scripts import latent_statistics as stats_script

SHAPE = (8, 12, 16)


def normal(*shape, key="latents"):
    return torch.randn(shape, generator=seeds.generator("test", key))


@pytest.fixture(scope="module")
def net():
    return weights.build_autoencoder(maisi.COMPACT, None, seed=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five volumes on disk, brighter to the right, so that mirroring changes them."""
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
    """Function that encodes some rows of the table and returns the shard, test scans last."""

    def make(rows=slice(None), name="shard", net=net, **settings):
        files = [tmp_path / f"{name}.pt", tmp_path / f"{name}.test.pt"]
        latents.encode_volumes(net, table.iloc[rows], *files, **settings)
        assert not (tmp_path / f"{name}.parts").exists()
        return join(files)

    return make


@pytest.fixture
def shards(tmp_path):
    """Two shards with three and two scans and augmented versions of training scans, and the split of each scan."""
    shift, spread = torch.tensor([1.0, -2.0, 0.0, 5.0]), torch.tensor([0.5, 1.0, 3.0, 2.0])
    paths = []
    for shard, (scans, augmented_scans) in enumerate(((["a", "c", "e"], ["a", "a", "e"]), (["b", "d"], ["d"]))):
        key = f"shard {shard}"
        size, n_augmented = (len(scans), 4, 2, 3, 2), len(augmented_scans)
        moments = {
            "mean": normal(*size, key=key) * spread.view(4, 1, 1, 1) + shift.view(4, 1, 1, 1),
            "std": 0.1 + torch.rand(size, generator=seeds.generator("test", key)),
            "augmented": normal(n_augmented, *size[1:], key=f"{key} copies") * spread.view(4, 1, 1, 1),
        }
        torch.save({"scans": scans, "augmented_scans": augmented_scans, **moments}, tmp_path / f"{shard}.pt")
        paths.append(tmp_path / f"{shard}.pt")
    return paths, {"a": "train", "b": "test", "c": "test", "d": "train", "e": "train"}


def join(paths):
    """All shards as one dict, in the order of the files."""
    shards = [torch.load(path, weights_only=True) for path in paths]
    shards = [shard for shard in shards if shard["scans"]] or shards[:1]
    names = {key: sum((shard[key] for shard in shards), []) for key in ROW_NAMES.values()}
    return names | {key: torch.cat([shard[key] for shard in shards]) for key in ROW_NAMES}


def message(error):
    return str(error.value)


# --- encoding ----------------------------------------------------------------------------------------


def test_a_shard_holds_posterior_moments_and_mirrored_training_scans(net, files, encoded):
    shard = encoded(mirror=True)
    assert shard["scans"] == ["s0", "s2", "s4", "s1", "s3"] and shard["augmented_scans"] == ["s0", "s2", "s4"]
    for k, scan in enumerate(shard["scans"]):
        file = files[int(scan[1:])]
        volume = torch.from_numpy(nifti.read_volume(file)[0])[None, None]
        mean, std = net.encode(volume)
        assert torch.equal(shard["mean"][k], mean[0]) and torch.equal(shard["std"][k], std[0])
        if k < 3:
            assert torch.equal(shard["augmented"][k], net.encode(volume.flip(2))[0][0])
    assert {shard[name].dtype for name in ("mean", "std", "augmented")} == {torch.float32}


def test_latents_of_test_scans_are_in_a_file_of_their_own(encoded, tmp_path):
    encoded(mirror=True)
    for name, scans in (("shard.pt", ["s0", "s2", "s4"]), ("shard.test.pt", ["s1", "s3"])):
        assert torch.load(tmp_path / name, weights_only=True)["scans"] == scans


def test_the_latent_of_a_mirrored_scan_is_not_the_flipped_latent(encoded):
    shard = encoded(mirror=True)
    train = shard["mean"][:3]
    assert (shard["augmented"] - train).abs().max() > 0.01
    assert (shard["augmented"] - train.flip(2)).abs().max() > 0.01


def test_without_mirror_and_augmentation_no_version_is_added(encoded):
    shard = encoded(mirror=False)
    assert shard["augmented_scans"] == [] and shard["augmented"].shape == (0, 4, 2, 3, 4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_scan_has_the_same_bytes_in_any_shard_and_order(encoded, precision):
    settings = {"mirror": True, "n_augmented": 2, "precision": precision}
    reference = encoded(**settings)
    for rows in ([4, 2, 0, 3, 1], [2], [3, 4]):
        other = encoded(rows, **settings)
        for moment, names in ROW_NAMES.items():
            for scan in dict.fromkeys(other[names]):
                rows_of = [[k for k, name in enumerate(x[names]) if name == scan] for x in (reference, other)]
                assert torch.equal(reference[moment][rows_of[0]], other[moment][rows_of[1]]), (scan, moment)


@pytest.mark.parametrize("shape", [(8, 12, 16), (64, 80, 64)])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_cpu_batching_does_not_change_a_bit(net, shape, precision):
    volume = torch.rand(3, 1, *shape, generator=seeds.generator("test", "batch"))
    together = maisi.encode_safely(net, volume, precision=precision)
    for k in range(3):
        alone = maisi.encode_safely(net, volume[k : k + 1], precision=precision)
        assert all(torch.equal(a[0], b[k]) for a, b in zip(alone, together, strict=True))
    pair = maisi.decode_safely(net, together[0][:2], precision=precision)
    assert torch.equal(pair[:1], maisi.decode_safely(net, together[0][:1], precision=precision))


def test_augmented_versions_are_latents_of_changed_images(net, files, encoded):
    amounts = {"rotation_deg": 10.0, "gamma": 0.4}
    shard = encoded([2], mirror=False, n_augmented=2, augmentation=amounts, seed=3)
    volume, affine = nifti.read_volume(files[2])
    for k in range(2):
        change = augmentation.draw_change(3, "s2", k, amounts=amounts)
        changed = torch.from_numpy(augmentation.apply_change(volume, change, spacing_mm=1.0))
        assert torch.equal(shard["augmented"][k], net.encode(changed[None, None])[0][0])
    assert shard["augmented_scans"] == ["s2", "s2"] and not torch.equal(shard["augmented"][0], shard["augmented"][1])


def test_bf16_is_close_to_float32_and_stored_as_float32(encoded):
    exact, half = (encoded(mirror=False, precision=precision) for precision in ("float32", "bf16"))
    assert half["mean"].dtype == torch.float32 and not torch.equal(half["mean"], exact["mean"])
    assert (half["mean"] - exact["mean"]).abs().mean() < 0.02 * exact["mean"].std()


class Counter:
    """Count the volumes an autoencoder encodes; raise KeyboardInterrupt at number `fail_at`."""

    def __init__(self, monkeypatch, fail_at=None):
        self.n, self.exact = 0, maisi.MAISIVAEWrapper.encode

        def encode(net, volume):
            self.n += len(volume)
            if self.n == fail_at:
                raise KeyboardInterrupt
            return self.exact(net, volume)

        monkeypatch.setattr(maisi.MAISIVAEWrapper, "encode", encode)


def test_an_interrupted_job_resumes_at_the_volume_in_progress(encoded, monkeypatch, tmp_path):
    expected = encoded(mirror=True, n_augmented=1)
    with pytest.raises(KeyboardInterrupt):
        Counter(monkeypatch, fail_at=5)
        encoded(name="stopped", mirror=True, n_augmented=1)
    assert len(list((tmp_path / "stopped.parts").iterdir())) == 4 and not (tmp_path / "stopped.pt").exists()
    monkeypatch.undo()
    counter = Counter(monkeypatch)
    got = encoded(name="stopped", mirror=True, n_augmented=1)
    assert counter.n == 11 - 4
    for name in ("mean", "std", "augmented"):
        assert torch.equal(got[name], expected[name])


def interrupt_before_the_shard(encoded, monkeypatch, **settings):
    """Interrupt a job after all volumes are encoded and before the shard is written."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(latents, "_as_shard", stop)
        encoded(name="stopped", **settings)


@pytest.mark.parametrize(
    ("changed", "n"),
    [({}, 0), ({"provenance": "other weights"}, 11), ({"precision": "bf16"}, 11), ({"n_augmented": 2}, 3),
     ({"seed": 1}, 3), ({"augmentation": {"gamma": 0.5}}, 3), ({"mirror": False}, 3)],
    ids=str,
)  # fmt: skip
def test_results_of_an_interrupted_job_are_reused_only_with_equal_settings(encoded, monkeypatch, changed, n):
    settings = {"mirror": True, "n_augmented": 1, "provenance": "weights"}
    interrupt_before_the_shard(encoded, monkeypatch, **settings)
    counter = Counter(monkeypatch)
    encoded(name="stopped", **{**settings, **changed})
    assert counter.n == n


def test_results_are_not_reused_for_changed_volumes_or_damaged_files(encoded, table, monkeypatch, tmp_path):
    for k in range(2):
        file = tmp_path / f"{k}.nii.gz"
        file.write_bytes(open(table.loc[k, "volume"], "rb").read())
        table.loc[k, "volume"] = str(file)
    interrupt_before_the_shard(encoded, monkeypatch, rows=[0, 1], mirror=False)
    nifti.write_volume(table.loc[1, "volume"], np.full(SHAPE, 0.5), np.eye(4))
    (tmp_path / "stopped.parts" / "s0.0.pt").write_bytes(b"truncated")
    counter = Counter(monkeypatch)
    encoded([0, 1], name="stopped", mirror=False)
    assert counter.n == 2


KILLED = """
import os, signal, sys
from neuromf.vae.maisi import MAISIVAEWrapper
from workflow_scripts import encode
exact, calls = MAISIVAEWrapper.encode, []
def killed_at_the_third(net, volume):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return exact(net, volume)
MAISIVAEWrapper.encode = killed_at_the_third
encode.main(sys.argv[1:])
"""
CONFIG = {"mirror": True, "n_augmented": 0, "augmentation": {}, "precision": "float32", "seed": 0}


@pytest.fixture
def command(net, table, tmp_path):
    """Command line of the script for a folder of volumes, one of them quarantined, and weights."""
    quarantined = pd.DataFrame([{"scan": "bad", "split": "train", "volume": "", "status": "quarantined"}])
    rows = pd.concat([table.assign(status="accepted"), quarantined])
    rows.to_csv(tmp_path / "qc.tsv", sep="\t", index=False)
    weights.save_weights(net, tmp_path / "vae.safetensors")
    options = {"folder": tmp_path, "weights": tmp_path / "vae.safetensors", "config": json.dumps(CONFIG)}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_a_killed_job_loses_only_the_volume_in_progress(command, encoded, monkeypatch, tmp_path):
    out = ["--out", str(tmp_path / "0.pt"), "--test", str(tmp_path / "0.test.pt")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, *out], check=False, capture_output=True)
    assert killed.returncode == -9 and not (tmp_path / "0.pt").exists()
    counter = Counter(monkeypatch)
    encode_script.main([*command, *out])
    assert counter.n == 8 - 2
    got, expected = join([tmp_path / "0.pt", tmp_path / "0.test.pt"]), encoded(mirror=True)
    assert all(torch.equal(got[name], expected[name]) for name in ("mean", "std", "augmented"))


def test_the_scripts_encode_accepted_volumes_and_describe_their_latents(command, table, tmp_path, monkeypatch):
    # the volumes are smaller than an SSIM window
    monkeypatch.setattr(autoencoder, "ssim", lambda a, b: np.array([1.0] * len(a)))
    axes, along = [], equivariance.flip_error_along
    monkeypatch.setattr(equivariance, "flip_error_along", lambda axis, error: axes.append(axis) or along(axis, error))
    encode_script.main([*command, "--out", str(tmp_path / "0.pt"), "--test", str(tmp_path / "0.test.pt")])
    config = json.dumps({"n_validated": 2, "precision": "float32"})
    where = ["--latents", str(tmp_path / "0.pt"), str(tmp_path / "0.test.pt"), "--qc", str(tmp_path / "qc.tsv")]
    where += ["--weights", str(tmp_path / "vae.safetensors")]
    stats_script.main([*where, "--config", config, "--out", str(tmp_path / "stats.json")])
    stats = statistics.read_stats(tmp_path / "stats.json")
    assert (stats["n"], stats["encoded"], stats["augmented"], stats["finite"]) == (3, 5, 3, True)
    assert stats["shapes"] == [str(stats["shape"])] and len(stats["reconstruction_ssim"]) == 2
    assert stats["flip_error"] > 0.01 and stats["psnr_of_flipped_latents"] != stats["psnr_of_flipped_volumes"]
    assert stats["flip_error_by_axis"][0] == stats["flip_error"]
    assert axes == [1, 2]  # the error of the first axis is not computed twice
    for name in ("flip_error_by_axis", "shift_error_by_axis", "scale_error_by_axis", "psnr_of_shifted_latents"):
        assert len(stats[name]) == 3 and np.isfinite(stats[name]).all()


def test_decoding_in_threads_equals_decoding_in_one_batch_and_stays_in_range(net):
    latent = 3 * normal(3, 4, 2, 3, 4)
    got = latents.decode(net, latent)
    assert got.shape == (3, *SHAPE) and got.min() == 0 and got.max() <= 1
    torch.testing.assert_close(got, net.decode(latent)[:, 0].clamp(0, 1), rtol=0, atol=1e-5)
    half = latents.decode(net, latent, precision="bf16")
    assert half.dtype == torch.float32 and 0 < (half - got).abs().mean() < 0.01


# --- shards and splits -------------------------------------------------------------------------------


def test_scans_of_a_split_are_joined_in_the_order_of_the_shards(shards):
    paths, splits = shards
    first, second = (torch.load(path, weights_only=True) for path in paths)
    train = load_split(paths, splits, "train")
    assert train["scans"] == ["a", "e", "d"] and train["augmented_scans"] == ["a", "a", "e", "d"]
    for name in ("mean", "std"):
        assert torch.equal(train[name], torch.cat([first[name][[0, 2]], second[name][[1]]]))
    assert torch.equal(train["augmented"], torch.cat([first["augmented"], second["augmented"]]))
    assert load_split(paths[::-1], splits, "train")["scans"] == ["d", "a", "e"]
    assert torch.equal(load_split(paths[:1], splits, "train")["mean"], first["mean"][[0, 2]])


@pytest.mark.parametrize("first", [True, False])
def test_an_empty_shard_is_ignored(shards, encoded, tmp_path, first):
    paths, splits = shards
    encoded([], name="empty")
    some = [tmp_path / "empty.pt", *paths] if first else [*paths, tmp_path / "empty.pt"]
    joined, expected = (load_split(files, splits, "train") for files in (some, paths))
    assert joined["scans"] == expected["scans"] and torch.equal(joined["mean"], expected["mean"])
    assert check_shards(some) == check_shards(paths)
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4}
    assert torch.equal(
        training_set.load_training_set(some, splits, stats), training_set.load_training_set(paths, splits, stats)
    )


def test_shards_without_any_scan_are_refused(encoded, tmp_path):
    encoded([], name="empty")
    with pytest.raises(ValueError) as error:
        load_split([tmp_path / "empty.pt"], {}, "train")
    assert message(error) == "none of 1 shards holds a scan: all are quarantined, see the reasons in qc.tsv"


def test_a_shard_of_another_version_is_refused(tmp_path):
    torch.save({"scans": ["a"], "mean": normal(1), "std": normal(1), "mirrored": normal(1)}, tmp_path / "old.pt")
    with pytest.raises(ValueError) as error:
        load_split([tmp_path / "old.pt"], {"a": "train"}, "train")
    assert message(error) == (
        f"{tmp_path / 'old.pt'} holds mean, mirrored, scans, std, expected augmented, augmented_scans, mean, "
        "scans, std: another version of neuromf wrote it; encode again"
    )


def test_a_split_has_its_scans_moments_and_augmented_versions(shards):
    paths, splits = shards
    joined = join(paths)
    train = select_split(joined, splits, "train")
    assert train["scans"] == ["a", "e", "d"] and train["augmented_scans"] == ["a", "a", "e", "d"]
    for name in ("mean", "std"):
        assert torch.equal(train[name], joined[name][[0, 2, 4]])
    test = select_split(joined, splits, "test")
    assert test["augmented_scans"] == [] and test["augmented"].shape == (0, 4, 2, 3, 2)
    empty = select_split(joined, splits, "val")
    assert empty["scans"] == [] and empty["mean"].shape == (0, 4, 2, 3, 2)


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_loading_a_split_equals_selecting_it_from_all_shards(shards, split):
    paths, splits = shards
    for some in (paths, paths[:1]):
        got, expected = load_split(some, splits, split), select_split(join(some), splits, split)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value) if torch.is_tensor(value) else got[name] == value


def test_check_shards_counts_scans_and_detects_values_that_are_not_finite(shards):
    paths, _ = shards
    assert check_shards(paths) == {"encoded": 5, "augmented": 4, "shapes": ["[4, 2, 3, 2]"], "finite": True}
    for name in ("mean", "std", "augmented"):
        shard = torch.load(paths[1], weights_only=True)
        shard[name][0, 0, 0, 0, 0] = float("inf")
        torch.save(shard, paths[1].with_name("broken.pt"))
        assert not check_shards([paths[0], paths[1].with_name("broken.pt")])["finite"]


def test_P1_T6_training_latents_have_their_shape_type_and_normalisation(shards):
    paths, splits = shards
    train = select_split(join(paths), splits, "train")
    stats = statistics.statistics(train["mean"], train["std"])
    data = training_set.load_training_set(paths, splits, stats)
    assert data.shape == (7, 4, 2, 3, 2) and data.dtype == torch.float32 and data.isfinite().all()
    scans = data[:3].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(scans.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(scans.std(1, correction=0), torch.ones(4).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(data[:3], statistics.normalise(train["mean"], stats))
    torch.testing.assert_close(data[3:], statistics.normalise(train["augmented"], stats))
    assert torch.equal(training_set.load_training_set(paths, splits, stats, use_augmented=False), data[:3])


def test_memory_mapped_training_latents_are_the_same_bits(shards):
    paths, splits = shards
    train = select_split(join(paths), splits, "train")
    stats = statistics.statistics(train["mean"], train["std"])
    data = training_set.load_training_set(paths, splits, stats)
    mapped = training_set.load_training_set(paths, splits, stats, resident_mb=data.nbytes / 1e6 * 0.999)
    assert isinstance(mapped, training_set.MemoryMappedLatents) and isinstance(data, torch.Tensor)
    assert (len(mapped), mapped.shape, mapped.dtype) == (len(data), data.shape, data.dtype)
    some = torch.tensor([6, 0, 3, 3])
    assert torch.equal(mapped[some], data[some]) and torch.equal(mapped[1:], data[1:])
    assert torch.equal(training_set.load_training_set(paths, splits, stats, resident_mb=data.nbytes / 1e6), data)


@pytest.mark.slow
def test_latents_of_581_participants_at_paper_shape_fit_in_memory_once():
    stored = torch.zeros(1, 4, 32, 32, 32).expand(581, -1, -1, -1, -1)
    latents = training_set.MemoryMappedLatents([(stored, torch.arange(581))], {"mean": [0.0] * 4, "std": [1.0] * 4})
    before = hardware.reset_peak("cpu")
    data = latents.in_memory()
    assert data.shape == (581, 4, 32, 32, 32) and latents.megabytes == data.nbytes / 1e6
    assert latents.megabytes == pytest.approx(304.6, abs=0.1)
    assert hardware.peak_mb("cpu") - before < 1.3 * latents.megabytes


def test_P1_T6_without_augmented_versions_the_training_set_is_the_scans(shards, tmp_path):
    paths, splits = shards
    for path in paths:
        shard = torch.load(path, weights_only=True)
        torch.save(
            {**shard, "augmented": shard["augmented"][:0], "augmented_scans": []}, tmp_path / f"bare-{path.name}"
        )
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4}
    got = training_set.load_training_set([tmp_path / f"bare-{path.name}" for path in paths], splits, stats)
    assert torch.equal(got, select_split(join(paths), splits, "train")["mean"])
