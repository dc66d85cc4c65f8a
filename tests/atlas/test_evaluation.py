"""Evaluation of a small linear model: every number is recomputed here by other code; a constant fails."""

import json
from math import log2

import numpy as np
import pandas as pd
import pytest
import torch
from atlas.evaluation_helpers import LinearAtlas
from atlas.training_helpers import run

from neuromf.atlas import counterfactual, evaluation, rates
from neuromf.atlas.baselines import first_half, fit, fit_pca
from neuromf.atlas.kernel_maps import kernel_map, kernel_maps
from neuromf.atlas.studies import write_studies
from neuromf.data.brain_grid import brain_grid
from neuromf.metrics import likelihood

GRID = brain_grid("6mm")
SETTINGS = {"n_z": 4, "n_generated": 20, "n_permutations": 2, "seed": 3}


@pytest.fixture(scope="module")
def atlas(mock_studies):
    return LinearAtlas(mock_studies, GRID)


@pytest.fixture(scope="module")
def results(mock_studies, atlas):
    return json.loads(json.dumps(evaluation.evaluate(atlas, mock_studies, GRID, **SETTINGS)))


def leaves(value, name=""):
    """Numbers of nested JSON values by path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{name}/{key}").items()}
    if isinstance(value, list):
        return {k: v for n, item in enumerate(value) for k, v in leaves(item, f"{name}/{n}").items()}
    return {name: value} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


def loop_bits(rate_of, studies, keep=None):
    """Mean log2 rate over foci, focus by focus."""
    total, n = 0.0, 0
    for k in range(len(studies)):
        for position in range(studies.starts[k], studies.starts[k + 1]):
            if keep is None or keep[position]:
                voxel = GRID.lookup[tuple(np.rint((studies.points[position] - GRID.affine[:3, 3]) / 6).astype(int))]
                total, n = total + log2(rate_of(k)[voxel]), n + 1
    return total / n


@pytest.mark.critical
def test_A30_bits_of_the_model_are_recomputed_focus_by_focus(results, mock_studies, atlas):
    test, found = mock_studies.take(mock_studies.rows("test")), results["bits"]["conditional"]
    train = mock_studies.take(mock_studies.rows("train"))
    shared, weight = fit(train, GRID).global_rate, found["model"]["weight"]
    m = rates.metadata_of(atlas, test)
    mine = []
    for k, name in enumerate(test.table["id"]):
        z = rates._noise(name, SETTINGS["n_z"], atlas.z_dim, SETTINGS["seed"])
        total = sum(
            np.clip(atlas.decode(z[j : j + 1], m[k : k + 1]).numpy()[0][GRID.mask], 1e-6, None) for j in range(4)
        )
        mine.append(weight * total / total.sum() + (1 - weight) * shared)
    assert found["model"]["value"] == pytest.approx(loop_bits(lambda k: mine[k], test), abs=1e-6)
    assert found["global"]["value"] == pytest.approx(loop_bits(lambda k: shared, test), abs=1e-9)
    best = found[found["best"]]["value"]
    assert found["difference"]["value"] == pytest.approx(found["model"]["value"] - best, abs=1e-9)
    assert found["n_foci"] == len(test.points) and found["n_studies"] == len(test)


@pytest.mark.critical
def test_A30_completion_is_recomputed_and_scores_the_unobserved_half(results, mock_studies, atlas):
    test, found = mock_studies.take(mock_studies.rows("test")), results["bits"]["completion"]
    half = first_half(test, SETTINGS["seed"])
    shared = fit(mock_studies.take(mock_studies.rows("train")), GRID).global_rate
    own = []
    for k in range(len(test)):
        points = test.foci(k)[half[test.starts[k] : test.starts[k + 1]]]
        squared = ((GRID.centres_mm[:, None] - points[None]) ** 2).sum(2)
        kernels = np.exp(-squared / (2 * (12 / np.sqrt(8 * np.log(2))) ** 2))
        density = np.where(kernels > 1e-3, kernels, 0).sum(1)
        own.append(0.4 * np.maximum(density, 1e-9) / np.maximum(density, 1e-9).sum() + 0.6 * shared)
    assert found["own"]["value"] == pytest.approx(loop_bits(lambda k: own[k], test, ~half), abs=2e-3)
    assert found["global"]["value"] == pytest.approx(loop_bits(lambda k: shared, test, ~half), abs=1e-9)
    assert found["n_foci"] == int((~half).sum())

    m, weight, mine = rates.metadata_of(atlas, test), found["model"]["weight"], []
    for k, name in enumerate(test.table["id"]):
        map_ = kernel_map(test.foci(k)[half[test.starts[k] : test.starts[k + 1]]], GRID, 12.0)
        mu, logvar = atlas.encode(torch.from_numpy(GRID.volume(map_[None])), m[k : k + 1])
        noise = rates._noise(name, SETTINGS["n_z"], atlas.z_dim, SETTINGS["seed"])
        decoded = [atlas.decode(mu + torch.exp(logvar / 2) * eps, m[k : k + 1]).numpy()[0][GRID.mask] for eps in noise]
        total = sum(np.clip(values, 1e-6, None) for values in decoded)
        mine.append(weight * total / total.sum() + (1 - weight) * shared)
    assert found["model"]["value"] == pytest.approx(loop_bits(lambda k: mine[k], test, ~half), abs=1e-4)


@pytest.mark.critical
def test_A30_reconstruction_and_generation_are_recomputed(results, mock_studies, atlas):
    train, test = (mock_studies.take(mock_studies.rows(name)) for name in ("train", "test"))
    maps, fitted = (kernel_maps(part, GRID, 12.0, dtype=np.float32).astype(float) for part in (test, train))
    m, errors, r = rates.metadata_of(atlas, test), [], []
    for k, x in enumerate(maps):
        volume = torch.from_numpy(GRID.volume(x[None].astype(np.float32)))
        again = atlas.decode(atlas.encode(volume, m[k : k + 1])[0], m[k : k + 1]).numpy()[0][GRID.mask]
        errors.append(((again - x) ** 2).mean())
        r.append(np.corrcoef(again, x)[0, 1])
    found = results["reconstruction"]["model"]
    assert found["mse"] == pytest.approx(np.mean(errors), rel=1e-4) and found["r"] == pytest.approx(
        np.mean(r), abs=1e-4
    )
    null = ((maps - fitted.mean(0)) ** 2).mean()
    assert found["explained_variance"] == pytest.approx(1 - np.mean(errors) / null, abs=1e-4)
    assert results["reconstruction"]["mean"]["mse"] == pytest.approx(null, rel=1e-5)
    assert results["reconstruction"]["mean"]["explained_variance"] == pytest.approx(0, abs=1e-6)

    val = kernel_maps(mock_studies.take(mock_studies.rows("val")), GRID, 12.0, dtype=np.float32)
    n, pca = min(len(val), len(maps)), fit_pca(fitted.astype(np.float32), 64)
    x, y = pca.transform(maps[:n].astype(np.float32)), pca.transform(val[:n])
    distance = np.linalg.norm(x[:, None] - y[None], axis=2)
    within = [np.sort(np.linalg.norm(a[:, None] - a[None], axis=2), axis=1) for a in (x, y)]
    expected = {
        "precision": (distance < within[0][:, 3][:, None]).any(0).mean(),
        "recall": (distance < within[1][:, 3][None]).any(1).mean(),
        "density": (distance < within[0][:, 5][:, None]).sum(0).mean() / 5,
        "coverage": (distance < within[0][:, 5][:, None]).any(1).mean(),
    }
    for name, value in expected.items():
        assert results["generation"]["real"][name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.critical
def test_A30_no_measurement_of_the_model_is_a_constant(results, mock_studies):
    """Another model on the same studies: every number of the model changes, and no classical one."""
    other = evaluation.evaluate(LinearAtlas(mock_studies, GRID, z_dim=3), mock_studies, GRID, **SETTINGS)
    before, after = leaves(results), leaves(json.loads(json.dumps(other)))
    for name, value in before.items():
        if "/model/" in name and "/generation/" not in name and not name.endswith(("/n", "/weight")):
            assert after[name] != value, name
        if any(f"/{kind}/" in name for kind in ("uniform", "global", "topics", "ridge", "own", "mean", "pca", "real")):
            assert after[name] == value, name
    leaks = {row["field"]: row["score"] for row in results["leakage"]}
    assert {row["field"]: row["score"] for row in other["leakage"]} != leaks


@pytest.mark.critical
def test_A30_the_evaluation_is_seeded_by_study_and_names_its_scale(results, mock_studies, atlas):
    test = mock_studies.take(mock_studies.rows("test"))
    all_rates = rates.prior_rates(atlas, GRID, test, 2, 0)
    assert np.array_equal(rates.prior_rates(atlas, GRID, test.take([4, 1]), 2, 0), all_rates[[4, 1]])
    assert not np.array_equal(rates.prior_rates(atlas, GRID, test.take([4]), 2, 1)[0], all_rates[4])
    assert results["provenance"] == {"scale": "mock", "grid": "6mm", "seed": 3, "n_z": 4}
    model = [row for row in results["retrieval"] if row["model"] == "model"]
    assert {row["k"] for row in model} == {10, 100} and all(0 <= row["recall"] <= 1 for row in model)
    few = evaluation._subset(test, 5, 0)
    assert len(few) == 5 and np.array_equal(evaluation._subset(test, 5, 0).points, few.points)


@pytest.mark.critical
def test_A64_a_model_with_the_true_topics_beats_the_global_density(results):
    found = results["bits"]["conditional"]
    assert found["uniform"]["value"] < found["global"]["value"] < found["topics"]["value"]
    assert found["model"]["value"] > found["global"]["value"]
    assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]


@pytest.mark.critical
def test_A65_real_against_real_is_the_ceiling_and_a_mean_map_has_no_recall(mock_studies):
    random = np.random.default_rng(0)
    real, same = random.normal(size=(2, 400, 8))
    ceiling = evaluation._overlap(real, same)
    assert all(abs(value - 1) < 0.15 for value in ceiling.values()), ceiling
    mean = evaluation._overlap(real, np.tile(real.mean(0), (400, 1)))
    assert mean["recall"] == 0 and mean["precision"] == 1 and mean["coverage"] < 0.6
    shifted = evaluation._overlap(real, same + 8)
    assert max(shifted.values()) == 0


def test_a_model_that_decodes_nan_stops_the_evaluation(mock_studies, atlas):
    class Broken(LinearAtlas):
        def decode(self, z, m=None, own=None):
            return super().decode(z, m, own) * np.nan

    with pytest.raises(FloatingPointError, match=r"decoded maps \[0, 1"):
        rates.decoded(Broken(mock_studies, GRID, z_dim=2), GRID, torch.zeros(3, 2), None)


def test_drawn_foci_follow_their_rate_and_depend_on_the_row_alone():
    rate = likelihood.normalised_rate(np.random.default_rng(0).random(GRID.n_voxels) ** 8)
    (foci,) = rates.draw_foci(rate, np.array([20_000]), GRID)
    counts = np.bincount(GRID.mask_index(foci), minlength=GRID.n_voxels)
    assert counts.sum() == 20_000 and np.corrcoef(counts, rate)[0, 1] > 0.9
    both = rates.draw_foci(np.stack([rate, rate]), np.array([5, 7]), GRID)
    assert np.array_equal(both[1], rates.draw_foci(rate, np.array([3, 7]), GRID)[1])


@pytest.mark.critical
def test_A31_the_effect_of_a_field_exceeds_its_permutation_null_and_a_reversed_one_does_not(mock_studies, atlas):
    train = mock_studies.take(mock_studies.rows("train"))
    maps = kernel_maps(train, GRID, 12.0, dtype=np.float32)
    m = rates.metadata_of(atlas, train)
    column = atlas.schema.names.index("topics:motor")
    change = counterfactual.map_change(atlas, GRID, m[:8], column, 0.0, 0.6)
    found = counterfactual.effect(change, maps, m[:, column].numpy())
    assert found["r"] > max(0.5, found["null_95"]) and found["p"] < 0.05 and found["size"] > 0
    reversed_change = counterfactual.effect(-change, maps, m[:, column].numpy())
    assert reversed_change["r"] == pytest.approx(-found["r"]) and reversed_change["p"] > 0.9
    assert reversed_change["sign"] == pytest.approx(-found["sign"])
    ignored = counterfactual.map_change(
        LinearAtlas(mock_studies, GRID, conditional=False), GRID, m[:8], column, 0.0, 0.6
    )
    assert np.abs(ignored).max() == 0


@pytest.mark.critical
def test_A30_a_checkpoint_is_evaluated_from_its_files(mock_studies, tmp_path):
    run(tmp_path, mock_studies, train={"steps": 2})
    write_studies(mock_studies, tmp_path / "studies")
    settings = {"n_z": 2, "n_studies": 3, "n_generated": 6, "n_permutations": 1}
    evaluation.evaluate_run(studies=tmp_path / "studies", checkpoint=tmp_path / "run/checkpoint", grid="6mm",
                            out=tmp_path / "test_results.json", **settings)  # fmt: skip
    found = json.loads((tmp_path / "test_results.json").read_text())
    assert found["provenance"]["scale"] == found["provenance"]["checkpoint"]["scale"] == "mock"
    assert found["bits"]["completion"]["n_studies"] == 3 and "skipped" in found["external"]["pain"]
    assert all(np.isfinite(value) for value in leaves(found["bits"]).values())
    assert {row["field"] for row in found["counterfactual"]} > {"year", "log_n_foci", "topics:motor"}


@pytest.mark.critical
def test_A83_leakage_before_and_after_reversal_has_a_row_per_field_and_run(mock_studies, tmp_path):
    fields = {"adversary": {"fields": ["year", "space", "log_n_foci"], "strength": 1.0}}
    for name, loss in (("before", {}), ("after", fields)):
        run(tmp_path / name, mock_studies, loss={"density_steps": 0, **loss}, train={"steps": 3, "checkpoint_every": 3})
    evaluation.compare_leakage(
        studies=tmp_path / "before/studies", before=tmp_path / "before/run/checkpoint", grid="6mm",
        after=tmp_path / "after/run/checkpoint", out=tmp_path / "leakage.csv", n_permutations=2, seed=0,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "leakage.csv")
    assert list(table) == ["run", "field", "kind", "score", "null_95", "leaks"]
    rows = table.groupby("run")["field"].apply(set)
    assert rows["before"] == rows["after"] >= {"year", "log_n_foci", "space"}
    by_run = table.set_index(["run", "field"])["score"]
    assert not np.allclose(by_run["before"], by_run["after"])  # two runs, not one read twice
