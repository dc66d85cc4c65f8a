"""Dependence, disentanglement scores, traversals and the comparison over random seeds."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from growth.figure_helpers import check_figure

from neuromf.data.semantic_features import FEATURES
from neuromf.figures import growth_disentanglement
from neuromf.growth import disentanglement_study as study
from neuromf.growth.mass_mask import count_mm3, dice, fit_threshold
from neuromf.growth.partition import Partition
from neuromf.metrics import disentanglement as scores
from neuromf.metrics.dependence import (
    cross_covariance,
    distance_correlation,
    distance_correlations,
    largest_correlation,
    variance_hinge,
)

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# --- dependence --------------------------------------------------------------------------------------


def test_G31_distance_correlation_of_independent_samples_is_near_zero():
    assert abs(float(distance_correlation(normal(512, 3), normal(512, 2, seed=1)))) < 0.05


def test_G31_distance_correlation_is_unbiased_for_few_samples():
    values = [float(distance_correlation(normal(8, 1, seed=k), normal(8, 4, seed=k + 10_000))) for k in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20


def test_G31_distance_correlation_finds_dependence_without_correlation():
    x = normal(512, 1)
    assert abs(np.corrcoef(x[:, 0], x[:, 0] ** 2)[0, 1]) < 0.2
    assert float(distance_correlation(x, x**2)) > 0.2
    assert float(distance_correlation(x, 3 - 2 * x)) == pytest.approx(1)


def test_G31_distance_correlation_equals_the_definition():
    x, y, n = normal(6, 2), normal(6, 3, seed=1), 6

    def centred(z):
        d = torch.linalg.norm(z[:, None] - z[None], dim=2).numpy()
        a = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                if i != j:
                    a[i, j] = d[i, j] - d[i].sum() / (n - 2) - d[:, j].sum() / (n - 2) + d.sum() / ((n - 1) * (n - 2))
        return a

    a, b = centred(x), centred(y)
    expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert float(distance_correlation(x, y)) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="needs 4 samples; got 3"):
        distance_correlation(x[:3], y[:3])


def test_G31_distance_correlation_has_a_gradient_that_lowers_it():
    x = normal(64, 2).requires_grad_()
    before = distance_correlations(x, {"a": slice(0, 1), "b": slice(1, 2)})["a", "b"]
    y = (x.detach() + 0.5 * x.detach()[:, :1]).requires_grad_()
    value = distance_correlations(y, {"a": slice(0, 1), "b": slice(1, 2)})["a", "b"]
    value.backward()
    assert value > before and y.grad.isfinite().all() and y.grad.abs().sum() > 0
    moved = y.detach() - 0.5 * y.grad / y.grad.norm()
    assert distance_correlations(moved, {"a": slice(0, 1), "b": slice(1, 2)})["a", "b"] < value


def test_G31_cross_covariance_counts_pairs_of_different_parts_alone():
    z, parts = normal(20, 3), {"a": slice(0, 1), "b": slice(1, 3)}
    cov = np.cov(z.numpy().T)
    assert float(cross_covariance(z, parts)) == pytest.approx((cov[0, 1] ** 2 + cov[0, 2] ** 2) / 2)
    assert largest_correlation(z, parts) == pytest.approx(np.abs(np.corrcoef(z.numpy().T)[0, 1:]).max())
    assert largest_correlation(torch.cat([z[:, :1], 0 * z[:, 1:]], 1), parts) == 0


def test_G31_the_hinge_is_zero_above_a_standard_deviation_of_one():
    z = normal(400, 4)
    assert float(variance_hinge(1.5 * z)) == 0
    assert float(variance_hinge(0 * z)) == pytest.approx(1 - 0.01)
    assert float(variance_hinge(0.5 * z)) == pytest.approx(0.5, abs=0.05)


# --- scores ------------------------------------------------------------------------------------------

GROUPS = [f"p{k // 3}" for k in range(600)]


def toy(rotated, seed=0):
    """Eight dimensions, of which the first five hold one factor each; or a rotation of them."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(600, 5))
    z = np.concatenate([factors, random.normal(size=(600, 3))], 1) + 0.05 * random.normal(size=(600, 8))
    turn = np.linalg.qr(random.normal(size=(8, 8)))[0] if rotated else np.eye(8)
    return z @ turn, factors


def test_G49_planted_factors_are_recovered_on_the_diagonal_alone():
    z, factors = toy(rotated=False)
    parts = {"a": slice(0, 1), "b": slice(1, 4), "c": slice(4, 5), "residual": slice(5, 8)}
    for test in (None, toy(rotated=False, seed=1)):
        matrix = scores.cross_probe_matrix(z, factors, parts, GROUPS, test)
        owner = np.zeros((4, 5), bool)
        owner[0, 0] = owner[1, 1:4] = owner[2, 4] = True
        assert (matrix[owner] > 0.9).all() and (matrix[~owner] < 0.1).all()


def test_G49_probes_never_see_the_patient_that_they_predict():
    random = np.random.default_rng(0)
    z = np.repeat(random.normal(size=(10, 8)), 6, axis=0) + 1e-3 * random.normal(size=(60, 8))
    factors = np.repeat(random.normal(size=(10, 1)), 6, axis=0)  # of the patient, unrelated to z
    assert scores.cross_validated_r2(z, factors, [f"p{k // 6}" for k in range(60)])[0] < 0.3
    assert scores.cross_validated_r2(z, factors, [f"p{k}" for k in range(60)])[0] > 0.3
    assert np.isnan(scores.cross_validated_r2(z, factors, ["a"] * 60)).all()


def test_G49_a_factor_that_nothing_predicts_leaves_the_probe_of_another():
    z, factors = toy(rotated=False)
    noise = np.random.default_rng(1).normal(size=(600, 20))
    alone = scores.probe_r2(z[:40, :1], factors[:40, :1], z[40:, :1], factors[40:, :1])
    beside = scores.probe_r2(z[:40, :1], np.hstack([factors[:40, :1], noise[:40]]), z[40:, :1],
                             np.hstack([factors[40:, :1], noise[40:]]))  # fmt: skip
    assert beside[0] == pytest.approx(alone[0]) and alone[0] > 0.99


def test_G50_scores_of_a_disentangled_and_of_a_rotated_toy():
    (z, factors), (turned, _) = toy(rotated=False), toy(rotated=True)
    good, bad = scores.dci(z, factors, GROUPS), scores.dci(turned, factors, GROUPS)
    assert good["dci_disentanglement"] > 0.9 and good["dci_completeness"] > 0.9 and good["dci_informativeness"] > 0.9
    assert bad["dci_disentanglement"] < 0.4 and bad["dci_informativeness"] > 0.9
    for score in (lambda x: scores.sap(x, factors), lambda x: scores.mig(*scores.mutual_information(x, factors)),
                  lambda x: scores.modularity(scores.mutual_information(x, factors)[0])):  # fmt: skip
        assert score(z) > score(turned) + 0.1
    assert scores.sap(z, factors) > 0.9


def test_G50_exact_values():
    assert scores.concentration(np.eye(4)) == pytest.approx(1) and scores.concentration(np.ones((3, 4))) == 0
    assert scores.concentration(np.array([[3.0, 0], [1, 1]])) == pytest.approx((3 * 1 + 2 * 0) / 5)
    assert scores.modularity(np.eye(3)) == 1 and scores.modularity(np.ones((3, 3))) == 0
    assert scores.gap(np.array([[0.9, 0.2], [0.5, 0.6], [0.1, 0.3]])) == pytest.approx([0.4, 0.3])
    binary = np.repeat([0.0, 1.0], 50)[:, None]
    information, entropies = scores.mutual_information(np.hstack([binary, np.tile([[0.0], [1.0]], (50, 1))]), binary)
    assert information[:, 0] == pytest.approx([np.log(2), 0]) and entropies == pytest.approx([np.log(2)])
    assert scores.mig(information, entropies) == pytest.approx(1)
    z = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 5)) - 0)[0]
    z = np.linalg.qr(z - z.mean(0))[0]
    assert scores.effective_rank(z) == pytest.approx(5)
    assert scores.effective_rank(z[:, :1] @ np.ones((1, 5))) == pytest.approx(1)


def test_G52_the_readiness_is_the_weighted_sum():
    values = {"r2_vol": 0.8, "r2_loc": 0.9, "r2_shape": 0.35, "max_correlation": 0.3, "au_fraction": 0.05}
    expected = 0.40 * 0.8 + 0.20 * 0.9 + 0.15 * 0.35 + 0.15 * 0.7 + 0.10 * 0.5
    assert scores.ode_readiness(**values) == pytest.approx(expected)
    assert scores.ode_readiness(**values | {"r2_shape": -3.0}) == pytest.approx(expected - 0.15 * 0.35)
    perfect = {"r2_vol": 1, "r2_loc": 1, "r2_shape": 1, "max_correlation": 0, "au_fraction": 1}
    assert scores.ode_readiness(**perfect) == pytest.approx(1)
    assert [scores.grade(one) for one in (0.9, 0.7, 0.5, 0.36, 0.1, -2.0)] == list("ABCDFF")


# --- traversals --------------------------------------------------------------------------------------

SIDE = 12
DISTANCE = torch.linalg.norm(torch.stack(torch.meshgrid(*[torch.arange(SIDE) - 5.5] * 3, indexing="ij")), dim=0)
CONFIG = {"data": {"modalities": ["t1n", "t1c"], "spacing": [2.0, 2.0, 2.0]}}


class Balls(torch.nn.Module):
    """Decodes z to a bright ball in t1c whose radius grows with z_0."""

    def decode(self, z):
        ball = torch.sigmoid(4 * (4 + z[:, 0, None, None, None] - DISTANCE))
        return torch.stack([0 * ball, ball], 1)


def ball_scans(n=60, seed=0):
    random = np.random.default_rng(seed)
    scans, masks = {}, []
    for k in range(n):
        z = random.normal(size=12) * 0.3
        mask = (DISTANCE < 4 + z[0]).numpy()
        features = np.zeros(len(FEATURES))
        features[FEATURES.index("log_volume_mass")] = np.log1p(mask.sum() * 8.0)
        features[FEATURES.index("centroid_x")] = z[1]
        for name in ("centroid_y", "centroid_z", "sphericity"):
            features[FEATURES.index(name)] = random.normal()
        split = "train" if k < n // 2 else "test"
        masks += [mask] if split == "train" else []
        scans[f"s{k:03d}"] = {"mu": z, "features": features, "present": np.ones(len(FEATURES), bool),
                              "patient": np.array(f"p{k:03d}"), "split": np.array(split)}  # fmt: skip
    return scans, np.stack(masks)


@pytest.mark.parametrize("partition", [None, {"vol": 1, "loc": 3, "shape": 4}])
def test_G51_the_measured_volume_rises_along_the_direction_of_the_volume(partition):
    scans, masks = ball_scans()
    parts = partition and Partition.of_widths(partition, 12)
    found, arrays = study.traverse(SimpleNamespace(model=Balls()), scans, parts, masks, CONFIG)
    assert found["traversal_spearman"] > 0.95
    assert arrays["volumes"].shape == (8, 7) and arrays["slices"].shape == (7, SIDE, SIDE)
    middle = arrays["volumes"][:, 3]
    true = [np.expm1(scans[f"s{k:03d}"]["features"][FEATURES.index("log_volume_mass")]) for k in range(30, 38)]
    assert middle == pytest.approx(true, rel=0.25)


def test_G51_a_traversal_that_changes_nothing_scores_zero():
    scans, masks = ball_scans()
    parts = Partition.of_widths({"vol": 1, "loc": 3, "shape": 4}, 12)
    blind = SimpleNamespace(decode=lambda z: Balls().decode(0 * z))
    found, _ = study.traverse(SimpleNamespace(model=blind), scans, parts, masks, CONFIG)
    assert found["traversal_spearman"] == 0


def test_G51_the_direction_of_the_volume_is_one_standard_deviation_of_the_part():
    z = np.random.default_rng(0).normal(size=(200, 3)) * [2.0, 1.0, 1.0]
    step = study.volume_direction(z, 3 * z[:, 0], slice(0, 1))
    assert step == pytest.approx([np.std(z[:, 0], ddof=1), 0, 0])
    assert study.volume_direction(z, -z[:, 0], slice(0, 3))[0] == pytest.approx(-2.0, rel=0.15)


def test_the_mask_of_the_mass_is_the_threshold_with_the_best_dice():
    random = np.random.default_rng(0)
    masks = random.random((5, 8, 8, 8)) < 0.1
    images = np.where(masks, 3.0, 0.0) + 0.1 * random.normal(size=masks.shape)
    threshold = fit_threshold(images, masks)
    assert 0.3 < threshold < 2.7 and (dice(images > threshold, masks) == 1).all()
    assert count_mm3(images, threshold, 8.0) == pytest.approx(8.0 * masks.sum((1, 2, 3)))
    assert dice(masks, ~masks).tolist() == [0] * 5 and dice(masks & False, masks & False).tolist() == [1] * 5
    names = [f"s{k}" for k in range(5)]
    found = study.bright_log_volumes((images, masks, names), (images[:1], masks[:1], ["t0"]), 8.0)
    assert [*found] == [*names, "t0"] and found["t0"] == pytest.approx(np.log1p(8.0 * masks[0].sum()))


def readings(noise, bright_noise, n=40, seed=0):
    """Readings of ln V with independent errors, two scans per patient."""
    random = np.random.default_rng(seed)
    y = random.normal(8, 1, 2 * n)
    error = random.normal(size=(2, 2 * n)) * [[noise], [bright_noise]]
    patients = np.repeat([f"p{k}" for k in range(n)], 2)
    return pd.DataFrame({"patient": patients, "actual": y, "latent": y + error[0], "bright": y + error[1]})


def test_G49_a_latent_that_reads_the_volume_better_than_bright_voxels_is_clearly_better():
    table = readings(0.2, 0.6)
    found = study.compare_readings(table)
    assert found["r2_vol_probe"] == pytest.approx(scores.r2(table["actual"], table["latent"])[0])
    assert found["r2_bright_voxels"] == pytest.approx(scores.r2(table["actual"], table["bright"])[0])
    assert found["volume_gain"] == pytest.approx(found["r2_vol_probe"] - found["r2_bright_voxels"])
    assert 0 < found["volume_gain_low"] < found["volume_gain"] < found["volume_gain_high"]
    assert found["volume_gain_p"] < 0.01 and 0.9 < found["r2_vol_probe_low"] < found["r2_vol_probe_high"] < 1


def test_G49_a_latent_that_knows_no_volume_is_worse_than_bright_voxels():
    found = study.compare_readings(readings(3.0, 0.3))
    assert found["r2_vol_probe_high"] < 0 and found["volume_gain_high"] < 0 and found["volume_gain_p"] < 0.01
    same = study.compare_readings(readings(0.4, 0.4))
    assert same["volume_gain_low"] < 0 < same["volume_gain_high"] and same["volume_gain_p"] > 0.05


def test_G49_intervals_are_those_of_a_bootstrap_of_patients():
    table = readings(0.3, 0.3, n=12)
    names, random, values = table["patient"].unique(), np.random.default_rng(1), []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(table["patient"] == one) for one in random.choice(names, len(names))])
        values.append(scores.r2(table["actual"][rows], table["latent"][rows])[0])
    found = study.compare_readings(table)
    expected = np.percentile(values, [2.5, 97.5])
    assert [found["r2_vol_probe_low"], found["r2_vol_probe_high"]] == pytest.approx(expected, abs=0.02)


def test_G49_readings_are_fitted_on_training_scans_alone():
    scans, _ = ball_scans(80)
    volume = FEATURES.index("log_volume_mass")
    bright = {name: float(scan["features"][volume]) for name, scan in scans.items()}
    table = study.volume_readings(scans, slice(0, 1), bright)
    assert table["patient"].tolist() == [f"p{k:03d}" for k in range(40, 80)]
    assert scores.r2(table["actual"], table["latent"])[0] > 0.8
    assert np.abs(table["bright"] - table["actual"]).max() < 0.1
    for scan in scans.values():
        if scan["split"] == "test":
            scan["features"] = scan["features"] + 5
    moved = study.volume_readings(scans, slice(0, 1), bright)
    pd.testing.assert_series_equal(moved["latent"], table["latent"])


def test_scores_of_a_store_find_what_each_part_holds():
    scans, _ = ball_scans(120)
    named, arrays = study.score_latents(scans, Partition.of_widths({"vol": 1, "loc": 3, "shape": 4}, 12))
    assert named["r2_vol"] > 0.8 and arrays["matrix"][1, 1] > 0.9 and arrays["matrix"][0, 1] < 0.1
    assert named["grade"] in "ABCDF" and len(named["dcor"]) == 6 and named["n_test_patients"] == 60
    free, _ = study.score_latents(scans, None)
    assert free["r2_vol"] == named["r2_vol_all"] and free["au_fraction"] == 1


# --- tables and figure -------------------------------------------------------------------------------


def test_G86_one_table_of_experiments_over_random_seeds(tmp_path):
    for number in (1, 2, 3):
        for seed in range(3):
            row = {"r2_vol": number + 0.1 * seed, "grade": "A", "dcor": {"vol-loc": 0.1}}
            (tmp_path / f"exp{number}-{seed}.json").write_text(json.dumps(row))
    table = study.merge_scores(sorted(tmp_path.glob("*.json"), reverse=True), tmp_path / "seeds.csv")
    assert table["experiment"].tolist() == [f"exp{k}" for k in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
    study.summarise(table, tmp_path / "summary.csv")
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("experiment")
    assert summary["r2_vol_mean"].tolist() == pytest.approx([1.1, 2.1, 3.1])
    assert summary["r2_vol_std"].tolist() == pytest.approx([0.1] * 3) and (summary["r2_vol_count"] == 3).all()


def test_G71_figure_f3_is_drawn_from_arrays_alone(tmp_path):
    scans, masks = ball_scans()
    for name, widths in (("exp1", None), ("exp3", {"vol": 1, "loc": 3, "shape": 4})):
        parts = widths and Partition.of_widths(widths, 12)
        arrays = {
            "matrix": np.linspace(-2, 1, 25).reshape(5, 5),
            "factors": np.array(study.FACTORS),
            "parts": np.array(["vol", "loc", "shape", "residual", "all"]),
            "named": np.array(parts is not None),
        }
        moved = study.traverse(SimpleNamespace(model=Balls()), scans, parts, masks, CONFIG)[1]
        np.savez(tmp_path / f"{name}.npz", **arrays, **moved)
    tables = [tmp_path / "exp1.npz", tmp_path / "exp3.npz"]
    growth_disentanglement.render(tables=tables, out=tmp_path / "fig_3", simulated="Simulated growth")
    check_figure(tmp_path / "fig_3", "Simulated growth")


def test_few_patients_have_no_scores_that_need_folds():
    z = np.random.default_rng(0).normal(size=(6, 3))
    assert all(np.isnan(value) for value in scores.dci(z, z, ["a", "a", "b", "b", "c", "c"]).values())
