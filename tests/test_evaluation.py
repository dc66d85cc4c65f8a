"""Sets of volumes beside the people they should resemble: every row is there, and near is nearer than far."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from neuromf.metrics import evaluation, frechet, spectral

SIDE, SPACING_MM = 32, 4.0
N_TRAIN, N_TEST = 20, 6
NEAREST = ["fake_to_train", "heldout_to_train", "ratio", "share_closer_to_train", "share_by_chance"]
LOOKS = [
    "pair_ms_ssim", "symmetry", "components", "high_frequency_ratio",
    "tissue_contrast", "ventricle_ml", "csf_ml", "gm_ml", "wm_ml", "brain_ml",
]  # fmt: skip


def encoder(volume):
    """Block means of four images of a volume (B, 1, I, J, K): itself, its square, and its slopes along two axes."""
    slopes = [volume - volume.roll(1, axis) for axis in (2, 3)]
    return F.avg_pool3d(torch.cat([volume, volume**2, *slopes], 1), 4)


def brains(n, seed):
    """Smooth volumes (n, I, J, K) in [0, 1] inside a ball, each another one."""
    noise = np.random.default_rng(seed).standard_normal((n, SIDE, SIDE, SIDE))
    smooth = gaussian_filter(noise, (0, 3, 3, 3))
    radius = np.linalg.norm(np.indices((SIDE,) * 3) - (SIDE - 1) / 2, axis=0)
    return torch.from_numpy((0.5 + 2 * smooth) * (radius < 13)).clamp(0, 1).float()


def noise(n):
    return torch.from_numpy(np.random.default_rng(9).random((n, SIDE, SIDE, SIDE))).float()


def encoded(volumes):
    return encoder(volumes[:, None])


@pytest.fixture(scope="module")
def people():
    return brains(N_TRAIN, 0), brains(N_TEST, 1)


@pytest.fixture(scope="module")
def new(people):
    """Makes an evaluation against the people, small enough for a test."""
    train, test = map(encoded, people)
    small = {"n_components": 8, "n_pairs": 2, "n_anatomy": 2, "n_boot": 20}
    return lambda **changes: evaluation.Evaluation(
        train, test, encoder=encoder, spacing_mm=SPACING_MM, **{**small, **changes}
    )


@pytest.fixture(scope="module")
def judge(new, people):
    """Held-out people, noise, and training people again, all measured."""
    judge = new()
    judge.add("real", people[1])
    judge.add("1", noise(5), latent=1.5 * encoded(people[0]))
    judge.add("copies", people[0][:4], looks=False)
    return judge


@pytest.fixture(scope="module")
def table(judge):
    return pd.DataFrame(judge.rows)


def value(table, nfe, metric):
    (found,) = table.loc[(table["nfe"] == nfe) & (table["metric"] == metric), "value"]
    return found


# --- rows --------------------------------------------------------------------------------------------


def test_every_set_has_all_its_rows_once(table):
    assert list(table.columns) == ["nfe", "metric", "features", "n", "value", "low", "high"]
    looked = ["frechet", *(f"nearest_{name}" for name in NEAREST), *LOOKS]
    deviations = [*(f"latent_std_error_{c}" for c in range(4)), "latent_std_error"]
    expected = {"real": looked, "1": looked + deviations, "copies": ["frechet"]}
    assert table.groupby("nfe", sort=False)["metric"].agg(list).to_dict() == expected


def test_rows_say_how_many_volumes_they_rest_on(table):
    n = table.set_index(["nfe", "metric"])["n"]
    assert [n[nfe, "frechet"] for nfe in ("real", "1", "copies")] == [N_TEST, 5, 4]
    for metric in ("nearest_ratio", "symmetry", "components", "high_frequency_ratio"):
        assert n["real", metric] == N_TEST and n["1", metric] == 5
    for metric in ("tissue_contrast", "ventricle_ml", "gm_ml", "pair_ms_ssim"):
        assert n["real", metric] == n["1", metric] == 2
    assert n["1", "latent_std_error"] == N_TRAIN


def test_the_row_of_pairs_says_how_many_there_were(new, people):
    rows = pd.DataFrame(new(n_pairs=24).looks(people[1][:3].numpy())).set_index("metric")
    assert rows.loc["pair_ms_ssim", "n"] == 3


def test_rows_name_the_features_a_distance_was_taken_in(table):
    named = table.loc[table["features"] != "", "metric"]
    assert set(named) == {"frechet", *(f"nearest_{name}" for name in NEAREST)}
    assert set(table.loc[named.index, "features"]) == {"encoder-pca8"}


def test_intervals_hold_their_value(table):
    for metric in ("frechet", "symmetry", "tissue_contrast", "brain_ml"):
        rows = table[(table["metric"] == metric) & (table["nfe"] != "copies")]
        assert (rows["low"] <= rows["high"]).all() and rows[["low", "high"]].notna().all(axis=None)
    anatomy = table[table["metric"].isin(["symmetry", "components", "brain_ml"])]
    assert ((anatomy["low"] <= anatomy["value"]) & (anatomy["value"] <= anatomy["high"])).all()


def test_spectra_have_a_row_for_each_frequency_of_each_set_looked_at(judge, people):
    spectra = pd.DataFrame(judge.spectra)
    frequency, power = spectral.radial_spectrum(people[1].numpy(), SPACING_MM)
    assert spectra.groupby("nfe", sort=False).size().to_dict() == {"real": len(frequency), "1": len(frequency)}
    real = spectra[spectra["nfe"] == "real"]
    np.testing.assert_allclose(real["frequency"], frequency)
    np.testing.assert_allclose(real["power"], power.mean(0))


# --- values ------------------------------------------------------------------------------------------


def test_unseen_people_are_nearer_than_noise_and_copies_are_nearest(table):
    far, near = value(table, "1", "frechet"), value(table, "real", "frechet")
    assert 5 * near < far
    assert value(table, "real", "nearest_fake_to_train") < value(table, "1", "nearest_fake_to_train")
    assert value(table, "1", "high_frequency_ratio") > 5 * value(table, "real", "high_frequency_ratio")
    assert value(table, "real", "components") == 1


def test_held_out_people_are_as_far_as_held_out_people(table):
    assert value(table, "real", "nearest_ratio") == 1
    assert value(table, "real", "nearest_share_by_chance") == pytest.approx(N_TRAIN / (N_TRAIN + N_TEST))


def test_copies_of_training_people_are_at_no_distance(new, people):
    rows = {row["metric"]: row["value"] for row in new().nearness(new().train[:3])}
    assert rows["nearest_fake_to_train"] == rows["nearest_ratio"] == 0
    judge = new()
    judge.add("all", people[0], looks=False)
    assert judge.rows[0]["value"] == pytest.approx(0, abs=1e-6)


def test_the_distance_is_that_of_features_on_the_axes_of_the_training_people(new, people):
    features = [F.avg_pool3d(encoded(volumes), 2).flatten(1).double().numpy() for volumes in (people[0], noise(5))]
    axes = frechet.fit_pca(features[0], 8)
    expected = frechet.frechet_distance(*(axes.project(x) for x in features))
    judge = new()
    judge.add("1", noise(5), looks=False)
    assert judge.rows[0]["value"] == pytest.approx(expected, rel=1e-4)


def test_more_axes_than_people_are_as_many_as_there_can_be(new):
    assert new(n_components=500).train.shape == (N_TRAIN, N_TRAIN - 1)


def test_channel_deviation_is_that_of_the_training_people_less_one(new, people):
    judge, latent = new(), encoded(people[0])
    factors = torch.tensor([1.0, 0.5, 1.25, 2.0]).view(4, 1, 1, 1)
    rows = {row["metric"]: row["value"] for row in judge.channel_deviation(7 + factors * latent)}
    got = [rows[f"latent_std_error_{c}"] for c in range(4)]
    np.testing.assert_allclose(got, [0.0, -0.5, 0.25, 1.0], atol=1e-5)
    assert rows["latent_std_error"] == pytest.approx(1.0, abs=1e-5)
    small = {row["metric"]: row["value"] for row in judge.channel_deviation(0.2 * latent)}
    assert small["latent_std_error"] == pytest.approx(0.8, abs=1e-5)


def test_equal_seeds_measure_equal_rows(new, people):
    first, again, other = (new(seed=seed) for seed in (0, 0, 1))
    for judge in (first, again, other):
        judge.add("real", people[1], looks=False)
    assert first.rows == again.rows and first.rows != other.rows


def test_a_comparison_pairs_the_volumes_of_both_sets(new, people):
    """A set beside itself differs by nothing, whatever is drawn; beside a worse one it is below 1 throughout."""
    judge = new()
    judge.add("1", brains(12, seed=5), looks=False)
    judge.add("same", brains(12, seed=5), looks=False)
    judge.add("worse", noise(12), looks=False)
    for other in ("same", "worse"):
        judge.compare("1", other)
    same, worse = judge.rows[-2:]
    assert (same["value"], same["low"], same["high"]) == (1, 1, 1) and same["n"] == 12
    assert worse["nfe"] == "1" and worse["metric"] == "frechet_over_worse" and worse["high"] < 1
    distances = {row["nfe"]: row["value"] for row in judge.rows if row["metric"] == "frechet"}
    assert worse["value"] == pytest.approx(distances["1"] / distances["worse"])
