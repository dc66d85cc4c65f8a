"""Masks as latents: what comes back is known where no network is asked, and the decision follows from numbers."""

import json
import typing
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.config import study
from neuromf.data import nifti
from neuromf.data.augmentation import Change
from neuromf.data.nifti import write_volume
from neuromf.lesions import mask_encoding, pair_latents
from neuromf.lesions.mask_encoding import CHANNELS, THRESHOLDS
from neuromf.vae import maisi, weights
from neuromf.vae.statistics import normalise

SHAPE = (16, 24, 20)
ROOT = Path(__file__).parents[2]


def ball(radius=5.0, middle=(8, 12, 10), shape=SHAPE):
    place = np.stack(np.indices(shape)) - np.array(middle).reshape(3, 1, 1, 1)
    return (np.linalg.norm(place, axis=0) <= radius).astype(np.float32)


def batch(*arrays):
    return torch.from_numpy(np.stack(arrays))[:, None].float()


@pytest.fixture(scope="module")
def net():
    return weights.load(weights.PACKAGED)


# --- encode and decode -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", CHANNELS)
def test_latents_have_the_channels_of_their_strategy_image_first(net, strategy):
    image, mask = batch(np.random.default_rng(0).random(SHAPE), ball()), batch(ball(), ball(3.0))
    latent = mask_encoding.encode(net, image, mask, strategy)
    assert latent.shape == (2, 4 + CHANNELS[strategy], 4, 6, 5) and latent.dtype == torch.float32
    torch.testing.assert_close(latent[:, :4], maisi.evaluate(net, "encode", image)[0])
    decoded, binary, soft = mask_encoding.decode(net, latent, strategy, 0.4)
    assert decoded.shape == binary.shape == soft.shape == image.shape
    torch.testing.assert_close(decoded, maisi.evaluate(net, "decode", latent[:, :4])[0].clamp(0, 1))
    assert torch.equal(binary, (soft > 0.4).float()) and 0 <= soft.min() and soft.max() <= 1


@pytest.mark.phase7
@pytest.mark.parametrize(("strategy", "least"), [("level", 0.85), ("downsample", 0.6)])
def test_P7_T1_a_mask_comes_back(net, strategy, least):
    mask = batch(ball(6.0))
    latent = mask_encoding.encode_mask(net, mask, strategy)
    curve = mask_encoding.dice_by_threshold(mask_encoding.decode_mask(net, latent, strategy), mask)
    assert curve.max() > least


def test_a_box_of_whole_latent_positions_comes_back_exactly_from_every_fourth_voxel(net):
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., 4:12, 8:16, 4:8] = 1
    soft = mask_encoding.decode_mask(net, mask_encoding.encode_mask(net, mask, "downsample"), "downsample")
    assert torch.equal(soft, mask)


def test_the_voxel_taken_lies_in_the_middle_of_its_latent_position(net):
    numbered = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 4, 4)
    assert mask_encoding.encode_mask(net, numbered, "downsample").flatten().tolist() == [2.0, 6.0]


def test_distance_to_a_plane_is_known_and_symmetric():
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


def test_a_level_is_the_mean_of_the_distance_and_splines_keep_its_place(net):
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
    with pytest.raises(ValueError, match=r"joint latents of downsample have 5 channels; got shape \(1, 8, 4, 6, 5\)"):
        mask_encoding.decode(net, torch.zeros(1, 8, 4, 6, 5), "downsample", 0.5)


# --- the decision ------------------------------------------------------------------------------------


def test_dice_is_the_share_of_the_overlap():
    a, b = np.zeros(8), np.zeros(8)
    a[:4], b[2:6] = 1, 1
    assert mask_encoding.dice(a, b) == 0.5 and mask_encoding.dice(a, a) == 1 and mask_encoding.dice(a, 1 - a) == 0
    assert mask_encoding.dice(np.zeros(3), np.zeros(3)) == 1
    with pytest.raises(ValueError, match=r"one shape; got \(8,\) and \(3,\)"):
        mask_encoding.dice(a, np.zeros(3))


def test_the_threshold_is_the_middle_of_the_best_ones():
    soft, mask = np.array([0.0, 0.301, 0.702]), np.array([0, 0, 1])
    curve = mask_encoding.dice_by_threshold(soft, mask)
    assert (curve == 1).sum() == ((THRESHOLDS > 0.301) & (THRESHOLDS < 0.702)).sum()
    assert mask_encoding.choose_threshold([curve]) == pytest.approx(0.5, abs=0.026)
    poor = np.zeros_like(curve)
    poor[3] = 5.0  # one scan that outweighs the others moves the mean
    assert mask_encoding.choose_threshold([curve, poor]) == THRESHOLDS[3]
    with pytest.raises(ValueError, match="at least one curve"):
        mask_encoding.choose_threshold(np.zeros((0, len(THRESHOLDS))))


@pytest.mark.parametrize(
    ("vae_dice", "distance", "downsample", "level", "expected"),
    [
        (0.9, 0.8, 0.7, 0.6, "vae"),
        (0.85, 0.8, 0.7, 0.6, "downsample"),  # above the bound, not at it
        (0.6, 0.5, 0.7, 0.6, "downsample"),
        (0.6, 0.65, 0.7, 0.7, "downsample"),  # the third beats both, or stays
        (0.6, 0.75, 0.7, 0.72, "distance"),
        (0.9, 0.92, 0.7, 0.95, "level"),
    ],
)
def test_numbers_decide(vae_dice, distance, downsample, level, expected):
    dices = {"vae": vae_dice, "distance": distance, "downsample": downsample, "level": level}
    assert mask_encoding.decide(dices, 0.85) == expected


def test_config_rules_and_library_know_the_same_strategies():
    assert set(typing.get_args(study.fcd.Strategy)) == CHANNELS.keys()
    assert f"STRATEGIES = {tuple(CHANNELS)!r}".replace("'", '"') in (ROOT / "rules" / "common_lesions.smk").read_text()


def table(**dices):
    rows = [{"strategy": name, "scan": f"s{k}", "split": "train", "threshold": 0.4, "dice": value}
            for name, values in dices.items() for k, value in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_decision_is_the_mean_over_scans_and_a_fixed_strategy_keeps_the_numbers():
    found = table(vae=[0.9, 0.9], distance=[0.5, 0.6], downsample=[0.7, 0.9], level=[0.1, 0.2])
    decision = pair_latents.strategy(found, chosen="auto", bound=0.85)
    assert decision["strategy"] == "vae" and decision["channels"] == 8 and decision["threshold"] == 0.4
    assert decision["dice"] == {"vae": 0.9, "distance": 0.55, "downsample": 0.8, "level": 0.15}
    fixed = pair_latents.strategy(found, chosen="downsample", bound=0.85)
    assert (fixed["strategy"], fixed["channels"], fixed["dice"]) == ("downsample", 5, decision["dice"])
    with pytest.raises(ValueError, match="distance, level missing"):
        pair_latents.strategy(table(vae=[0.9], downsample=[0.7]), chosen="auto", bound=0.85)


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
        rows.append({"scan": f"s{k}", "person": f"p{k}", "split": split, "image": str(paths[0]), "mask": str(paths[1])})
    return pd.DataFrame(rows)


def test_pairs_are_encoded_for_every_strategy_with_statistics_of_training_alone(net, pairs, tmp_path):
    found = pair_latents.encode_pairs(net, pairs, tmp_path / "latents", copies=2, seed=1)
    assert sorted(found["scan"].unique()) == ["s0", "s1", "s2"]  # test pairs have no say
    for name in CHANNELS:
        file = np.load(tmp_path / "latents" / f"{name}.npz")
        stats = json.loads(str(file["stats"]))
        assert file["x"].shape == (8, 4 + CHANNELS[name], 4, 6, 5) and file["x"].dtype == np.float32
        assert file["scan"].tolist() == ["s0"] * 3 + ["s1"] * 3 + ["s2", "s3"]
        assert file["copy"].tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
        assert (stats["strategy"], stats["n"], stats["channels"]) == (name, 2, 4 + CHANNELS[name])
        own = normalise(torch.from_numpy(file["x"][[0, 3]]), stats)
        torch.testing.assert_close(own.mean((0, 2, 3, 4)), torch.zeros(len(stats["mean"])), atol=1e-4, rtol=0)
        torch.testing.assert_close(own.std((0, 2, 3, 4), unbiased=False), torch.ones(len(stats["std"])))
        mine = found[found["strategy"] == name]
        assert mine["threshold"].unique().tolist() == [stats["threshold"]]
    first = (tmp_path / "latents" / "level.npz").read_bytes()
    pair_latents.encode_pairs(net, pairs, tmp_path / "latents", copies=2, seed=1)
    assert (tmp_path / "latents" / "level.npz").read_bytes() == first


def test_image_and_mask_go_through_the_same_change(pairs):
    row = pairs.iloc[0].to_dict()
    plain = pair_latents.changed_pair(row, Change())
    image, mask = pair_latents.changed_pair(row, Change(mirror=True))
    np.testing.assert_array_equal(image, plain[0][::-1])
    np.testing.assert_array_equal(mask, plain[1][::-1])
    image, mask = pair_latents.changed_pair(row, Change(shift_mm=(2.5, 0, -5.0), gamma=1.4, intensity=1.1))
    np.testing.assert_array_equal(mask[1:, :, :-2], plain[1][:-1, :, 2:])
    assert set(np.unique(mask)) == {0, 1}
    assert image[mask > 0].mean() == pytest.approx(1.1 * 0.9**1.4, abs=0.02)  # as bright as the lesion, where it is now


def test_a_mask_is_written_whole_in_bytes_and_anything_else_is_refused(tmp_path):
    nifti.write_mask(tmp_path / "a.nii.gz", ball(), np.diag([2.0, 2, 2, 1]))
    nifti.write_mask(tmp_path / "b.nii.gz", ball(), np.diag([2.0, 2, 2, 1]))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.get_fdata(), ball())
    with pytest.raises(ValueError, match="of 0 and 1; got shape"):
        nifti.write_mask(tmp_path / "c.nii.gz", 0.5 * ball(), np.eye(4))
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "b.nii.gz"}


def test_without_a_training_pair_no_threshold_is_made_up(net, pairs, tmp_path):
    with pytest.raises(ValueError, match="no training pair"):
        pair_latents.encode_pairs(net, pairs.iloc[2:], tmp_path / "latents")
