"""Evaluation: all rows are present, near sets have smaller distances than far ones, entry points write all files."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table
from neuromf.metrics import controls, evaluation, evaluator, privacy, table, two_sample
from neuromf.metrics.distances import frechet
from neuromf.metrics.features import registry
from neuromf.metrics.features.registry import FeatureSet, calibrate, extract
from neuromf.metrics.images import spectral
from neuromf.vae import maisi, weights

SIDE, SPACING_MM = 32, 4.0
N_TRAIN, N_TEST = 20, 8


def blocks(volume):
    """Block means of a volume (I, J, K), its square and its differences along two axes, as one row."""
    x = volume[None, None]
    images = torch.cat([x, x**2, x - x.roll(1, 2), (x - x.roll(1, 3)).abs()], 1)
    return {"": F.avg_pool3d(images, 8).flatten()[None]}


def planes(volume):
    """Two slices of two planes."""
    return {"xy": volume[:, :, [12, 20]].mean(0).T, "yz": volume[[12, 20]].mean(2)}


SETS = [FeatureSet("blocks", blocks), FeatureSet("slices", planes)]


def brains(n, seed):
    """Different smooth volumes (n, I, J, K) in [0, 1] inside a ball."""
    noise = np.random.default_rng(seed).standard_normal((n, SIDE, SIDE, SIDE))
    smooth = gaussian_filter(noise, (0, 3, 3, 3))
    radius = np.linalg.norm(np.indices((SIDE,) * 3) - (SIDE - 1) / 2, axis=0)
    return np.clip((0.5 + 2 * smooth) * (radius < 13), 0, 1).astype(np.float32)


def noise(n):
    return np.random.default_rng(9).random((n, SIDE, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def scans():
    return brains(N_TRAIN, 0), brains(N_TEST, 1)


@pytest.fixture(scope="module")
def reference(scans):
    blurred = gaussian_filter(scans[1], (0, 1, 1, 1))
    features = [extract(SETS, volumes) for volumes in (*scans, blurred)]
    images = [privacy.mirrored_block_means(volumes) for volumes in scans]
    shared = {"channel_std": np.array([1.0, 2.0, 0.5, 1.0]), "scales": {"blocks": np.ones((2, 1, 3, 64))}}
    return evaluator.Reference(*features, *images, **shared)


@pytest.fixture(scope="module")
def new(reference):
    """A function that returns a new evaluator with small settings."""
    small = {"n_pairs": 2, "n_anatomy": 2, "n_boot": 20}
    return lambda **changes: evaluator.Evaluator(reference, SETS, spacing_mm=SPACING_MM, **{**small, **changes})


@pytest.fixture(scope="module")
def evaluated(new, scans):
    """An evaluator with test scans and noise."""
    evaluated = new()
    for name, volumes in (("test", scans[1]), (1, noise(6))):
        evaluated.add(name, volumes)
        evaluated.diversity(name, volumes)
        evaluated.anatomy(name, volumes)
    return evaluated


def value(evaluated, which, metric, features="blocks"):
    wanted = {**table.set_columns(which), "metric": metric}
    (found,) = [r["value"] for r in evaluated.rows if r.items() >= wanted.items() and r["features"] in (features, "")]
    return found


# --- rows --------------------------------------------------------------------------------------------


def test_rows_have_the_columns_of_the_table_without_duplicates(evaluated):
    found = pd.DataFrame(evaluated.rows)
    assert set(found.columns) == set(table.COLUMNS)
    assert not found.duplicated(["set", "nfe", "metric", "features"]).any()
    assert set(found["features"]) == {"", "blocks", "slices-xy", "slices-yz"}
    assert {"frechet", "kid", "pair_ms_ssim", "betti_0", "betti_1", "symmetry", "ventricle_ml"} <= set(found["metric"])


def test_rows_have_the_number_of_volumes(evaluated):
    n = pd.DataFrame(evaluated.rows).drop_duplicates(["set", "metric"]).set_index(["set", "metric"])["n"]
    assert [n[name, "frechet"] for name in ("test", "samples")] == [N_TEST, 6]
    assert [n["test", metric] for metric in ("symmetry", "brain_ml", "pair_ms_ssim")] == [N_TEST, 2, 2]


def test_a_reference_is_equal_after_saving_and_loading(reference, tmp_path):
    reference.save(tmp_path / "real_features.npz")
    again = evaluator.Reference.load(tmp_path / "real_features.npz")
    assert list(again.train) == list(reference.train) and again.primary == "blocks"
    for name in reference.train:
        np.testing.assert_allclose(again.test[name], reference.test[name], rtol=1e-6)
    np.testing.assert_allclose(again.train_images, reference.train_images, rtol=1e-6)
    np.testing.assert_allclose(again.channel_std, reference.channel_std)
    assert list(again.scales) == list(reference.scales)
    np.testing.assert_array_equal(again.scales["blocks"], reference.scales["blocks"])


def test_feature_scales_are_computed_from_the_first_training_scans_for_sets_that_need_them():
    net = maisi.MAISIVAEWrapper(maisi.COMPACT)
    volumes = noise(registry.CALIBRATION + 2)[:, :16, :16, :16]
    assert registry.feature_scales([{"name": "radimagenet"}], vae=net, train=volumes) == {}
    got = registry.feature_scales([{"name": "radimagenet"}, {"name": "autoencoder"}], vae=net, train=volumes)
    assert list(got) == ["autoencoder"]
    np.testing.assert_array_equal(got["autoencoder"], calibrate(net, volumes[: registry.CALIBRATION]))


def test_the_features_of_a_study_do_not_depend_on_its_autoencoder():
    """Planted: with the study's own encoder in its place, the features differ."""
    volumes = noise(6)[:, :16, :16, :16]
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = maisi.MAISIVAEWrapper(maisi.COMPACT)
        specs = [{"name": "encoder"}, {"name": "autoencoder"}]
        scales = registry.feature_scales(specs, vae=net, train=volumes)
        found.append(registry.extract(registry.open_feature_sets(specs, vae=net, scales=scales), volumes))
    np.testing.assert_array_equal(found[0]["encoder-512"], found[1]["encoder-512"])
    assert np.abs(found[0]["autoencoder-512"] - found[1]["autoencoder-512"]).max() > 0.1


def test_spectra_have_a_row_per_frequency_and_set(evaluated, scans):
    spectra = pd.DataFrame(evaluated.spectra)
    frequency, power = spectral.radial_spectrum(scans[1], SPACING_MM)
    assert spectra.groupby("set", sort=False).size().to_dict() == {"test": len(frequency), "samples": len(frequency)}
    np.testing.assert_allclose(spectra.loc[spectra["set"] == "test", "power"], power.mean(0))


# --- values ------------------------------------------------------------------------------------------


def test_test_scans_are_nearer_than_noise(evaluated):
    for features in ("blocks", "slices-xy"):
        assert 2 * value(evaluated, "test", "frechet", features) < value(evaluated, 1, "frechet", features)
    assert value(evaluated, 1, "high_frequency_ratio") > 5 * value(evaluated, "test", "high_frequency_ratio")
    assert value(evaluated, "test", "betti_0") == 1


def test_two_sample_tests_are_made_only_if_asked_for(new, evaluated, scans, monkeypatch):
    monkeypatch.setattr(two_sample, "REPEATS", 2)
    assert not [r for r in evaluated.rows if r["metric"].startswith("c2st")]
    tested = new(two_sample=True)
    tested.add_train_halves()
    tested.add("test", scans[1])
    tested.add("blurred", gaussian_filter(scans[1], (0, 2, 2, 2)), paired=True)
    tested.add(1, noise(6))
    tested.add("reconstruction", scans[1], paired=True)
    found = [r for r in tested.rows if r["metric"] in ("c2st_logistic", "c2st_svm")]
    assert {r["set"] for r in found} == {"train_halves", "blurred", "samples", "reconstruction"}
    assert {(r["metric"], r["features"]) for r in found} == {
        (metric, features)
        for metric in ("c2st_logistic", "c2st_svm")
        for features in ("blocks", "slices-xy", "slices-yz")
    }
    assert value(tested, 1, "c2st_logistic") == 1 > value(tested, "train_halves", "c2st_logistic")
    against = {r["set"] for r in tested.rows if r["metric"].endswith("_reconstruction")}
    assert against == {"blurred", "samples"} and value(tested, 1, "c2st_svm_reconstruction") == 1
    others = [r for r in tested.rows if not r["metric"].startswith("c2st")]
    assert [r["metric"] for r in others if r["set"] == "samples"] == [
        r["metric"] for r in evaluated.rows if r["set"] == "samples" and r["metric"] in {x["metric"] for x in others}
    ]


def test_known_features_are_not_extracted_again(new, reference):
    evaluated = new()
    evaluated.add("test", noise(8), features=reference.test)
    assert value(evaluated, "test", "frechet") == pytest.approx(
        frechet.frechet_distance(reference.train["blocks"][:, 0], reference.test["blocks"][:, 0])
    )


def test_training_halves_are_nearer_to_each_other_than_noise(new, evaluated):
    halves = new()
    halves.add_train_halves()
    assert value(halves, "train_halves", "frechet") < value(evaluated, 1, "frechet")


def test_copies_and_mirrored_copies_of_training_scans_raise_the_alarm(new, scans):
    for volumes in (scans[0][:6], scans[0][:6, ::-1]):
        evaluated = new()
        evaluated.add(1, volumes)
        nearest = evaluated.audit_privacy(1, volumes)
        images = privacy.IMAGE_FEATURES
        assert (
            value(evaluated, 1, "privacy_alarm", images) == 1
            and value(evaluated, 1, "nearest_train_ratio", images) < 1e-6
        )
        assert nearest[nearest["set"] == "samples"]["train"].tolist() == list(range(6))


def test_new_brains_raise_no_alarm(new):
    evaluated, volumes = new(), brains(8, seed=7)
    evaluated.add(1, volumes)
    evaluated.audit_privacy(1, volumes)
    assert value(evaluated, 1, "privacy_alarm", privacy.IMAGE_FEATURES) == 0


def test_nearest_similarity_compares_each_volume_with_its_scan(new, scans):
    evaluated = new()
    evaluated.nearest_similarity(1, scans[0][:4], scans[0][:4])
    assert value(evaluated, 1, "nearest_ms_ssim") == pytest.approx(1)
    evaluated.nearest_similarity(2, scans[1][:4], scans[0][:4])
    assert value(evaluated, 2, "nearest_ms_ssim") < 0.95


def test_equal_regions_have_distance_zero(new):
    rng = np.random.default_rng(0)
    names = ["left_ventricle", "right_ventricle", "brain", "intracranial"]
    real = pd.DataFrame(rng.uniform(10, 20, (8, 4)), columns=names)
    evaluated = new()
    evaluated.compare_regions("same", real, real)
    evaluated.compare_regions("far", real, 2 * real)
    assert (
        value(evaluated, "same", "wasserstein_brain_sd", "atlas")
        == 0
        < value(evaluated, "far", "wasserstein_brain_sd", "atlas")
    )
    assert value(evaluated, "same", "segmented", "atlas") == 1


def test_the_latent_error_is_relative_to_the_training_set(new, reference):
    evaluated = new()
    draw = np.random.default_rng(3).standard_normal((50, 4, 6, 6, 6))
    factors = reference.channel_std * np.array([1, 0.5, 1.25, 2])
    evaluated.latent_std(1, 7 + draw * factors[:, None, None, None])
    got = [value(evaluated, 1, f"latent_std_error_{c}") for c in range(4)]
    np.testing.assert_allclose(got, [0.0, -0.5, 0.25, 1.0], atol=0.03)
    assert value(evaluated, 1, "latent_std_error") == pytest.approx(max(map(abs, got)))


def test_equal_seeds_give_equal_rows(new, scans):
    first, again, other = (new(seed=seed) for seed in (0, 0, 1))
    for evaluated in (first, again, other):
        evaluated.add("test", scans[1])
    assert repr(first.rows) == repr(again.rows) and repr(first.rows) != repr(other.rows)


def test_compared_sets_are_resampled_jointly(new):
    """The ratio of equal sets is 1 in every resample; the ratio to a worse set is below 1 in all."""
    evaluated = new()
    for name, volumes in ((1, brains(12, seed=5)), ("same", brains(12, seed=5)), ("worse", noise(12))):
        evaluated.add(name, volumes)
    for other in ("same", "worse"):
        evaluated.compare_sets(1, other)
    same, worse = evaluated.rows[-2:]
    assert (same["value"], same["low"], same["high"]) == (1, 1, 1) and same["n"] == 12
    assert worse["metric"] == "frechet_over_worse" and worse["high"] < 1
    assert worse["value"] == pytest.approx(value(evaluated, 1, "frechet") / value(evaluated, "worse", "frechet"))


# --- entry points ------------------------------------------------------------------------------------

SETTINGS = {"features": [{"name": "encoder", "n": 16}], "spacing_mm": 5.0, "n_pairs": 2, "n_anatomy": 4, "n_boot": 4}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Volumes, latents and samples of a small study, and the files of `reference` and `evaluate_run`."""
    root, net = tmp_path_factory.mktemp("study"), weights.load(weights.PACKAGED)
    volumes = torch.from_numpy(brains(14, 3))[:, None]
    mean, std = net.encode(volumes)
    names = [f"s{k}" for k in range(14)]
    rows = []
    for name, volume, split in zip(names, volumes, ["train"] * 6 + ["test"] * 4 + ["samples"] * 4, strict=True):
        write_volume(root / f"{name}.nii.gz", volume[0].numpy(), np.diag([5.0, 5, 5, 1]))
        rows.append({"scan": name, "split": split, "status": "accepted", "volume": str(root / f"{name}.nii.gz")})
    write_table(pd.DataFrame(rows[:10]), root / "qc.tsv")
    shard = {"scans": names[:10], "mean": mean[:10], "std": std[:10], "augmented": mean[:0], "augmented_scans": []}
    torch.save(shard, root / "0.pt")
    (root / "nfe-1").mkdir()
    write_table(pd.DataFrame({"file": [row["volume"] for row in rows[10:]]}), root / "nfe-1" / "samples.tsv")
    torch.save(mean[10:], root / "nfe-1" / "latents.pt")
    common = {
        "qc": root / "qc.tsv",
        "weights": weights.PACKAGED,
        "real_features": root / "real_features.npz",
        **SETTINGS,
    }
    names = {"table": "reference", "spectra": "reference_spectra", "regions": "reference_regions"}
    evaluation.reference(latents=[root / "0.pt"], **{k: root / f"{v}.csv" for k, v in names.items()}, **common)
    outputs = {name: root / f"{name}.csv" for name in ("metrics", "spectra", "nearest", "regional", "privacy")}
    run = {"samples": [root / "nfe-1"], "regions": root / "reference_regions.csv", "run": "a", "n": 5}
    evaluation.evaluate_run(**run, **outputs, **common, baselines={"online": mean[10:], "prior": mean[:4]})
    short = {name: root / f"short_{name}.csv" for name in outputs}
    evaluation.evaluate_run(**run, **short, **common, in_depth=False)
    return root


def test_the_reference_has_all_control_sets_and_their_order(study):
    rows = table.read_rows(study / "reference.csv")
    assert {*controls.SETS, "train_halves", "reconstruction", "controls"} == set(rows["set"]) and rows[
        "nfe"
    ].isna().all()
    assert {"ordered_frechet", "betti_0", "segmented"} <= set(rows["metric"])
    assert pd.read_csv(study / "reference_regions.csv")["set"].tolist() == ["test"] * 4 + ["reconstruction"] * 4


def test_a_run_in_depth_has_privacy_regions_and_baselines(study):
    rows = table.read_rows(study / "metrics.csv")
    assert set(rows["run"]) == {"a"} and set(rows["set"]) == {"samples", "online", "prior"}
    values = table.select_set(rows, 1).drop_duplicates("metric").set_index("metric")["value"]
    assert values["valid_fraction"] == 0.8 and {"privacy_alarm", "nearest_ms_ssim", "segmented"} <= set(values.index)
    assert 0 < values["frechet_over_online"] < 1  # the samples are not decoded and nearer to the training scans
    nearest = pd.read_csv(study / "privacy.csv")
    assert nearest["set"].tolist() == ["samples"] * 4 + ["test"] * 4
    assert nearest["file"][0] == pd.read_csv(study / "nearest.csv")["generated"][0] == str(study / "s10.nii.gz")
    assert nearest["train"].isin([str(study / f"s{k}.nii.gz") for k in range(6)]).all()


def test_a_run_not_in_depth_has_distances_and_empty_tables(study):
    rows = table.read_rows(study / "short_metrics.csv")
    assert "frechet" in set(rows["metric"]) and not rows["metric"].str.contains("privacy|betti|segmented").any()
    for name in ("nearest", "regional", "privacy", "spectra"):
        assert pd.read_csv(study / f"short_{name}.csv").empty


def test_the_joint_table_has_reference_and_runs(study):
    evaluation.join_tables(tables=[study / "reference.csv", study / "metrics.csv"], out=study / "joint.csv")
    assert list(pd.read_csv(study / "joint.csv")) == ["run", *table.COLUMNS]
    assert set(table.read_rows(study / "joint.csv")["run"]) == {"", "a"}


# --- valid metrics -----------------------------------------------------------------------------------


def controlled(**distance):
    names = dict.fromkeys(name for chain in controls.CHAINS for name in chain)
    rows = [{**table.set_columns(name), **table.row("frechet", distance.get(name, 5.0 + k), 8, features="blocks")}
            for k, name in enumerate(names)]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_distance_that_orders_the_controls_is_valid():
    found = controlled(test=1.0)
    (asked,) = controls.order_rows(found)
    assert (asked["set"], asked["metric"], asked["value"]) == ("controls", "ordered_frechet", 1)
    assert len(table.valid_rows(pd.concat([found, pd.DataFrame([asked])]))) == len(found) + 1


def test_a_distance_that_does_not_order_the_controls_is_left_out_and_logged(caplog):
    found = controlled(test=1.0, shuffled=0.5)
    rows = pd.concat([found, pd.DataFrame(controls.order_rows(found)), found.assign(features="slices-xy")])
    with caplog.at_level(logging.WARNING):
        kept = table.valid_rows(rows)
    assert set(kept["features"]) == {"blocks", "slices-xy"} and set(kept[kept["features"] == "blocks"]["metric"]) == {
        "ordered_frechet"
    }
    assert "frechet of blocks" in caplog.text


def test_a_larger_precision_is_better():
    found = controlled(test=1.0)
    asked = controls.order_rows(found.assign(metric="precision"))
    assert asked[0]["value"] == 0


def test_text_columns_stay_text(tmp_path):
    found = controlled(test=1.0).assign(run="")
    found.to_csv(tmp_path / "a.csv", index=False)
    again = table.read([tmp_path / "a.csv", tmp_path / "a.csv"])
    assert (
        len(again) == 2 * len(found)
        and again["set"][0] == "test"
        and again["run"][0] == ""
        and again["low"].isna().all()
    )
