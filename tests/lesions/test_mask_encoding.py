"""Mask encodings: encode-decode, the choice between encodings, and the latents of pairs."""

import json
import typing

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.config import lesions
from neuromf.data import nifti
from neuromf.data.augmentation import Change
from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table
from neuromf.lesions import mask_encoding, pair_latents
from neuromf.lesions.mask_encoding import CHANNELS, THRESHOLDS
from neuromf.vae import maisi, weights
from neuromf.vae.statistics import normalise

SHAPE = (16, 24, 20)


def ball(radius=5.0, middle=(8, 12, 10), shape=SHAPE):
    place = np.stack(np.indices(shape)) - np.array(middle).reshape(3, 1, 1, 1)
    return (np.linalg.norm(place, axis=0) <= radius).astype(np.float32)


def batch(*arrays):
    return torch.from_numpy(np.stack(arrays))[:, None].float()


@pytest.fixture(scope="module")
def net():
    return weights.load(weights.PACKAGED)


# --- encode and decode -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", CHANNELS)
def test_latents_have_the_channels_of_their_encoding_image_first(net, encoding):
    image, mask = batch(np.random.default_rng(0).random(SHAPE), ball()), batch(ball(), ball(3.0))
    latent = mask_encoding.encode(net, image, mask, encoding)
    assert latent.shape == (2, 4 + CHANNELS[encoding], 4, 6, 5) and latent.dtype == torch.float32
    torch.testing.assert_close(latent[:, :4], maisi.encode_safely(net, image)[0])
    decoded, binary, soft = mask_encoding.decode(net, latent, encoding, 0.4)
    assert decoded.shape == binary.shape == soft.shape == image.shape
    torch.testing.assert_close(decoded, maisi.decode_safely(net, latent[:, :4]).clamp(0, 1))
    assert torch.equal(binary, (soft > 0.4).float()) and 0 <= soft.min() and soft.max() <= 1


@pytest.mark.parametrize(("encoding", "min_dice"), [("level", 0.85), ("downsample", 0.6)])
def test_P7_T1_a_mask_is_recovered_by_encode_decode(net, encoding, min_dice):
    mask = batch(ball(6.0))
    latent = mask_encoding.encode_mask(net, mask, encoding)
    curve = mask_encoding.dice_by_threshold(mask_encoding.decode_mask(net, latent, encoding), mask)
    assert curve.max() > min_dice


def test_downsample_recovers_a_box_of_whole_latent_positions_exactly(net):
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., 4:12, 8:16, 4:8] = 1
    soft = mask_encoding.decode_mask(net, mask_encoding.encode_mask(net, mask, "downsample"), "downsample")
    assert torch.equal(soft, mask)


def test_downsample_takes_the_voxel_in_the_middle_of_the_latent_position(net):
    numbered = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 4, 4)
    assert mask_encoding.encode_mask(net, numbered, "downsample").flatten().tolist() == [2.0, 6.0]


def test_the_signed_distance_to_a_plane_is_known_and_symmetric():
    mask = torch.zeros(1, 1, 12, 4, 4)
    mask[:, :, 6:] = 1
    line = mask_encoding.signed_distance(mask, 4.0)[0, 0, :, 2, 2]
    expected = (torch.arange(12) - 5.5).clamp(-4, 4) / 8 + 0.5
    torch.testing.assert_close(line, expected)
    torch.testing.assert_close(
        mask_encoding.signed_distance(1 - mask, 4.0), 1 - mask_encoding.signed_distance(mask, 4.0)
    )
    assert not mask_encoding.signed_distance(torch.zeros(1, 1, 4, 4, 4), 4.0).any()
    assert mask_encoding.signed_distance(torch.ones(1, 1, 4, 4, 4), 4.0).min() == 1


def test_level_averages_the_signed_distance_and_splines_preserve_the_centroid(net):
    mask = batch(ball(6.0))
    latent = mask_encoding.encode_mask(net, mask, "level")
    field = mask_encoding.signed_distance(mask, mask_encoding.CLIP_VOXELS["level"])
    assert float(latent[0, 0, 1, 2, 3]) == pytest.approx(float(field[0, 0, 4:8, 8:12, 12:16].mean()))
    soft = mask_encoding.decode_mask(net, latent, "level")[0, 0].numpy() > 0.5
    np.testing.assert_allclose(np.argwhere(soft).mean(0), np.argwhere(mask[0, 0].numpy()).mean(0), atol=0.3)


def test_bad_masks_and_latents_are_refused(net):
    with pytest.raises(ValueError, match="must be one of vae, distance, downsample, level; got 'nearest'"):
        mask_encoding.encode_mask(net, batch(ball()), "nearest")
    with pytest.raises(ValueError, match="must have one shape"):
        mask_encoding.encode(net, batch(ball()), batch(ball(shape=(16, 24, 24))), "level")
    with pytest.raises(ValueError, match=r"pair latents of downsample have 5 channels; got shape \(1, 8, 4, 6, 5\)"):
        mask_encoding.decode(net, torch.zeros(1, 8, 4, 6, 5), "downsample", 0.5)


# --- the decision ------------------------------------------------------------------------------------


def test_the_threshold_is_the_middle_of_the_best_thresholds():
    soft, mask = np.array([0.0, 0.301, 0.702]), np.array([0, 0, 1])
    curve = mask_encoding.dice_by_threshold(soft, mask)
    assert (curve == 1).sum() == ((THRESHOLDS > 0.301) & (THRESHOLDS < 0.702)).sum()
    assert mask_encoding.choose_threshold([curve]) == pytest.approx(0.5, abs=0.026)
    poor = np.zeros_like(curve)
    poor[3] = 5.0  # dominates the mean
    assert mask_encoding.choose_threshold([curve, poor]) == THRESHOLDS[3]
    with pytest.raises(ValueError, match="at least one curve"):
        mask_encoding.choose_threshold(np.zeros((0, len(THRESHOLDS))))


@pytest.mark.parametrize(
    ("vae_dice", "distance", "downsample", "level", "expected"),
    [
        (0.9, 0.8, 0.7, 0.6, "vae"),
        (0.85, 0.8, 0.7, 0.6, "downsample"),  # vae only above the bound
        (0.6, 0.5, 0.7, 0.6, "downsample"),
        (0.6, 0.65, 0.7, 0.7, "downsample"),  # distance or level only if better than both others
        (0.6, 0.75, 0.7, 0.72, "distance"),
        (0.9, 0.92, 0.7, 0.95, "level"),
    ],
)
def test_the_best_encoding_follows_from_the_dice(vae_dice, distance, downsample, level, expected):
    dices = {"vae": vae_dice, "distance": distance, "downsample": downsample, "level": level}
    assert mask_encoding.best_encoding(dices, 0.85) == expected


def test_config_and_library_have_the_same_encodings():
    assert set(typing.get_args(lesions.Encoding)) == CHANNELS.keys()


def table(path, **dices):
    rows = [{"mask_encoding": name, "scan": f"s{k}", "split": "train", "threshold": 0.4, "dice": value}
            for name, values in dices.items() for k, value in enumerate(values)]  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)


def test_the_choice_is_by_mean_dice_over_scans_or_fixed_by_the_config(tmp_path):
    files = {"table": tmp_path / "masks.csv", "out": tmp_path / "encoding.json"}
    table(files["table"], vae=[0.9, 0.9], distance=[0.5, 0.6], downsample=[0.7, 0.9], level=[0.1, 0.2])
    choice = mask_encoding.choose_mask_encoding(**files, mask_encoding="auto", min_vae_dice=0.85)
    assert choice["mask_encoding"] == "vae" and choice["channels"] == 8 and choice["threshold"] == 0.4
    assert choice["dice"] == {"vae": 0.9, "distance": 0.55, "downsample": 0.8, "level": 0.15}
    assert json.loads(files["out"].read_text()) == choice and choice["n"] == 2
    fixed = mask_encoding.choose_mask_encoding(**files, mask_encoding="downsample", min_vae_dice=0.85)
    assert (fixed["mask_encoding"], fixed["channels"], fixed["dice"]) == ("downsample", 5, choice["dice"])
    table(files["table"], vae=[0.9], downsample=[0.7])
    with pytest.raises(ValueError, match="distance, level missing"):
        mask_encoding.choose_mask_encoding(**files, mask_encoding="auto", min_vae_dice=0.85)


# --- latents of pairs --------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    rows = []
    for k, split in enumerate(("train", "train", "val", "test")):
        mask = ball(4.0, (5 + k, 12, 10))
        paths = [tmp_path / f"s{k}_{kind}.nii.gz" for kind in ("FLAIR", "mask")]
        image = (0.6 * ball(9.0) + 0.3 * mask) * (1 - 0.01 * k)
        affine = nib.affines.from_matvec(2.5 * np.eye(3), (-20, -30, -25))
        write_volume(paths[0], image, affine)
        nifti.write_mask(paths[1], mask, affine)
        rows.append(
            {"scan": f"s{k}", "participant": f"p{k}", "split": split, "image": str(paths[0]), "mask": str(paths[1])}
        )
    return pd.DataFrame(rows)


def encode_pairs(pairs, folder):
    write_table(pairs, folder / "pairs.tsv")
    files = {"pairs": folder / "pairs.tsv", "weights": weights.PACKAGED, "out": folder / "latents"}
    return pair_latents.encode_pairs(**files, table=folder / "masks.csv", n_augmented=2, seed=1)


def test_pairs_are_encoded_with_every_encoding_and_statistics_of_training_pairs(pairs, tmp_path):
    dices = encode_pairs(pairs, tmp_path)
    assert sorted(dices["scan"].unique()) == ["s0", "s1", "s2"]  # no test pair
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "masks.csv"), dices.reset_index(drop=True))
    for name in CHANNELS:
        file = np.load(tmp_path / "latents" / f"{name}.npz")
        stats = json.loads(str(file["stats"]))
        assert file["x"].shape == (8, 4 + CHANNELS[name], 4, 6, 5) and file["x"].dtype == np.float32
        assert file["scan"].tolist() == ["s0"] * 3 + ["s1"] * 3 + ["s2", "s3"]
        assert file["version"].tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
        assert (stats["mask_encoding"], stats["n"], stats["channels"]) == (name, 2, 4 + CHANNELS[name])
        train = normalise(torch.from_numpy(file["x"][[0, 3]]), stats)
        torch.testing.assert_close(train.mean((0, 2, 3, 4)), torch.zeros(len(stats["mean"])), atol=1e-4, rtol=0)
        torch.testing.assert_close(train.std((0, 2, 3, 4), unbiased=False), torch.ones(len(stats["std"])))
        assert dices.loc[dices["mask_encoding"] == name, "threshold"].unique().tolist() == [stats["threshold"]]
    first = (tmp_path / "latents" / "level.npz").read_bytes()
    encode_pairs(pairs, tmp_path)
    assert (tmp_path / "latents" / "level.npz").read_bytes() == first


def test_image_and_mask_undergo_the_same_change(pairs):
    row = pairs.iloc[0].to_dict()
    unchanged = pair_latents.read_changed_pair(row, Change())
    image, mask = pair_latents.read_changed_pair(row, Change(mirror=True))
    np.testing.assert_array_equal(image, unchanged[0][::-1])
    np.testing.assert_array_equal(mask, unchanged[1][::-1])
    image, mask = pair_latents.read_changed_pair(row, Change(shift_mm=(2.5, 0, -5.0), gamma=1.4, intensity=1.1))
    np.testing.assert_array_equal(mask[1:, :, :-2], unchanged[1][:-1, :, 2:])
    assert set(np.unique(mask)) == {0, 1}
    assert image[mask > 0].mean() == pytest.approx(
        1.1 * 0.9**1.4, abs=0.02
    )  # the brightness of the lesion at its new place


def test_a_mask_is_written_atomically_as_uint8_and_other_arrays_are_refused(tmp_path):
    nifti.write_mask(tmp_path / "a.nii.gz", ball(), np.diag([2.0, 2, 2, 1]))
    nifti.write_mask(tmp_path / "b.nii.gz", ball(), np.diag([2.0, 2, 2, 1]))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.get_fdata(), ball())
    with pytest.raises(ValueError, match="of 0 and 1; got shape"):
        nifti.write_mask(tmp_path / "c.nii.gz", 0.5 * ball(), np.eye(4))
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "b.nii.gz"}


def test_without_a_training_pair_there_is_no_threshold(pairs, tmp_path):
    with pytest.raises(ValueError, match="no training pair"):
        encode_pairs(pairs.iloc[2:], tmp_path)
