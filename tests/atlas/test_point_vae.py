"""Point sets of studies, the point VAE with its closed form, training, checkpoints, evaluation and viewer."""

import json
import re

import numpy as np
import pytest
import torch

from neuromf.atlas import point_baselines, point_evaluation, point_vae
from neuromf.atlas.metadata import fit_schema
from neuromf.atlas.point_sets import normalise_points, point_sets, study_random
from neuromf.atlas.point_training import build_module, train_points
from neuromf.atlas.point_vae import PointVAE, load_points
from neuromf.atlas.studies import write_studies
from neuromf.config.atlas_points import read_point_preset
from neuromf.core.files import write_json
from neuromf.data.brain_grid import brain_grid
from neuromf.metrics.distances.point_sets import chamfer

MODEL = {"z_dim": 8, "n_frequencies": 16, "width": 32, "hidden": 32}
LOSS = {"conditional": True, "w_emd": 1.0, "beta": 1e-3, "drop_metadata": 0.1}
TRAIN = {"steps": 40, "batch": 16, "lr": 2e-3, "warmup": 5, "log_every": 10, "seed": 0, "checkpoint_every": 20,
         "clip": 1.0, "logger": "csv"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(mock_studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    write_studies(mock_studies, folder / "studies", manifest="mock")
    schema = fit_schema(mock_studies.take(mock_studies.rows("train")))
    write_json(folder / "schema.json", {"width": schema.width, **schema.to_json()})
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    return train_points(studies=folder / "studies", schema=folder / "schema.json", out=folder / "run", model=MODEL,
                        loss=LOSS, train=TRAIN)  # fmt: skip


@pytest.mark.critical
@pytest.mark.parametrize("n", [1, 7, 30, 31, 200])
def test_A35_sets_have_30_points_and_every_original_that_fits(n):
    foci = np.random.default_rng(n).uniform(-60, 60, (n, 3)).astype(np.float32)
    points, mask = normalise_points(foci, study_random("a", 0))
    assert points.shape == (30, 3) and points.dtype == np.float32 and mask.sum() == min(n, 30)
    originals = {tuple(one) for one in points[mask]}
    assert len(originals) == min(n, 30) and originals <= {tuple(one) for one in foci}
    assert {tuple(one) for one in points} == originals  # copies without jitter
    with pytest.raises(ValueError, match="a point set needs at least one focus"):
        normalise_points(foci[:0], study_random("a", 0))


@pytest.mark.critical
def test_A35_the_draw_of_a_study_does_not_depend_on_the_others(mock_studies):
    points, mask = point_sets(mock_studies, seed=3)
    again, few = point_sets(mock_studies.take([7, 2]), seed=3)
    assert np.array_equal(again, points[[7, 2]]) and np.array_equal(few, mask[[7, 2]])
    assert not np.array_equal(point_sets(mock_studies, seed=4)[0], points)
    assert not np.array_equal(point_sets(mock_studies, seed=3, access=1)[0], points)


@pytest.fixture(scope="module")
def fitted(mock_studies):
    """Model with its closed form, training sets and masks."""
    torch.manual_seed(0)
    train = mock_studies.take(mock_studies.rows("train"))
    points, mask = point_sets(train)
    model = PointVAE(4, point_vae.bounding_box(brain_grid("6mm")), **MODEL).eval()
    point_vae.fit_linear(model, points, mask)
    return model, torch.from_numpy(points), torch.from_numpy(mask)


def test_the_closed_form_is_near_the_pca_of_ordered_sets(fitted):
    model, points, mask = fitted
    with torch.inference_mode():
        mu, logvar = model.encode(points, mask)
        decoded = model.decode(mu)
    ordered = point_baselines.fit_ordered_pca(points.numpy(), 8).reconstruct(points.numpy())
    mean = np.broadcast_to(point_baselines.fit_ordered_pca(points.numpy(), 8).template.astype(np.float32), points.shape)
    errors = [point_evaluation.point_errors(points.numpy(), mask.numpy(), one)["chamfer_mm"].mean()
              for one in (decoded.numpy(), ordered, mean)]  # fmt: skip
    assert errors[0] < 1.15 * errors[1] < 0.9 * errors[2]
    assert torch.all(logvar == point_vae.FIRST_LOGVAR)
    torch.testing.assert_close(model.from_raw(model.to_raw(points)), points, rtol=0, atol=1.0)


def test_decoded_points_are_inside_the_box(fitted):
    model = fitted[0]
    points = model.decode(50 * torch.randn(20, 8))
    assert points.shape == (20, 30, 3) and (points >= model.low).all() and (points <= model.high).all()
    with pytest.raises(ValueError, match="float32"):
        model.decode(torch.zeros(1, 8, dtype=torch.float64))


@pytest.mark.critical
def test_A36_metadata_change_the_output_and_missing_ones_do_not(trained, mock_studies):
    z = torch.zeros(1, 8)
    m, observed = (one[:1] for one in trained.metadata(mock_studies))
    other = m.clone()
    other[:, trained.schema.position("topics")] = torch.eye(10)[3]
    with torch.inference_mode():
        base, changed = trained.model.decode(z, m, observed), trained.model.decode(z, other, observed)
        none = trained.model.decode(z), trained.model.decode(z, other, torch.zeros_like(observed))
    assert (base - changed).abs().max() > 0.01
    torch.testing.assert_close(*none)


@pytest.mark.critical
def test_A34_latents_of_studies_depend_on_originals_alone(fitted):
    model, points, mask = fitted
    moved = torch.where(mask[..., None], points, torch.full_like(points, 11.0))
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(points, mask)[0], model.encode(moved, mask)[0], rtol=0, atol=1e-5)


@pytest.mark.critical
def test_A38_the_loss_falls_and_the_run_folder_is_complete(trained, folder):
    import pandas as pd

    history = pd.read_csv(folder / "run/history.csv")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] and history["kl"].min() > 0
    card = json.loads((folder / "run/card.json").read_text())
    assert card["scale"] == "mock" and card["kind"] == "development" and card["seed"] == 0
    assert json.loads((folder / "run/config.json").read_text())["train"]["steps"] == 40
    assert not list((folder / "run/ckpt").glob("*.ckpt"))
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())


@pytest.mark.critical
def test_A38_optimiser_is_adamw_with_beta_2_of_the_preset(mock_studies):
    module = build_module(mock_studies, None, {"model": MODEL, "loss": {**LOSS, "conditional": False}, "train": TRAIN})
    optimizer = module.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["betas"] == (0.9, 0.995)


@pytest.mark.critical
def test_A38_values_that_are_not_finite_name_the_studies(mock_studies):
    module = build_module(mock_studies, None, {"model": MODEL, "loss": {**LOSS, "conditional": False}, "train": TRAIN})
    terms = {"loss": torch.ones(2), "kl": torch.tensor([1.0, float("nan")])}
    name = mock_studies.table["id"].iloc[5]
    with pytest.raises(FloatingPointError, match=rf"kl is not finite at step 0 for studies \['{name}'\]"):
        module.check_finite(terms, torch.tensor([3, 5]))


def test_a_checkpoint_is_read_as_it_was_written(trained, folder, mock_studies):
    again = load_points(folder / "run")
    for a, b in zip(trained.latents(mock_studies), again.latents(mock_studies), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(trained.sample(mock_studies, 1), again.sample(mock_studies, 1))


def test_the_preset_gives_the_keywords_of_the_training():
    from inspect import signature
    from pathlib import Path

    preset = read_point_preset(Path(__file__).parents[2] / "studies/atlas/points.yaml")
    assert preset.keys() == {"model", "loss", "train"} and preset.keys() <= signature(train_points).parameters.keys()
    assert preset["train"]["betas"] == [0.9, 0.995] and preset["model"]["n_points"] == 30


# baselines and evaluation


def test_codebook_decodes_fractions_of_cells():
    book = point_baselines.Codebook(np.array([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]]))
    foci = np.array([[[1.0, 0, 0], [2, 0, 0], [49, 0, 0], [0, 90, 90]]], np.float32)
    decoded = book.reconstruct(foci, np.array([[True, True, True, False]]))
    assert decoded[0].tolist() == [[0, 0, 0]] * 3 + [[50, 0, 0]]  # 2.67 and 1.33 of 4


def test_own_centroids_of_few_foci_are_the_foci():
    points = np.arange(90, dtype=np.float32).reshape(1, 30, 3)
    mask = np.arange(30)[None] < 4
    found = point_baselines.own_centroids(points, mask)
    assert found.shape == (1, 10, 3) and {tuple(one) for one in found[0]} == {tuple(one) for one in points[0, :4]}


def test_draws_from_the_global_density_are_in_the_brain_and_like_it(mock_studies):
    grid = brain_grid("6mm")
    drawn = point_baselines.draw_global(mock_studies, grid, (60, 30))
    assert drawn.shape == (60, 30, 3) and grid.in_mask(drawn.reshape(-1, 3)).all()
    np.testing.assert_allclose(drawn.mean((0, 1)), mock_studies.points.mean(0), atol=4)


@pytest.mark.critical
def test_A38_the_two_sample_test_is_at_half_for_one_distribution_and_one_for_others():
    random = np.random.default_rng(0)
    mask = np.ones((120, 10), bool)

    def sets(seed, shift):
        centres = random.uniform(-40, 40, (120, 1, 3))
        return (centres + shift + random.standard_normal((120, 10, 3))).astype(np.float32)

    equal = point_evaluation.nearest_neighbour_test(sets(0, 0.0), mask, sets(1, 0.0), mask)
    other = point_evaluation.nearest_neighbour_test(sets(0, 0.0), mask, sets(1, 200.0), mask)
    assert abs(equal["accuracy"] - 0.5) < 0.1 and equal["deviation"] < 0.1
    assert other["accuracy"] == 1.0 and other["deviation"] == 0.5


def test_the_two_sample_test_is_that_of_a_loop():
    random = np.random.default_rng(1)
    sets = torch.from_numpy((20 * random.standard_normal((6, 5, 3))).astype(np.float32))
    mask = torch.from_numpy(random.random((6, 5)) < 0.7) | (torch.arange(5) == 0)
    matrix = point_evaluation.chamfer_matrix(sets, mask)
    pair = chamfer(sets[1][mask[1]][None], sets[4][mask[4]][None], squared=False)
    assert float(matrix[1, 4]) == pytest.approx(float(pair)) and torch.allclose(matrix, matrix.T)


@pytest.mark.informational
def test_A39_the_viewer_shows_five_studies(trained, folder):
    from neuromf.figures import atlas_points
    from neuromf.report.atlas.point_viewer import LIBRARY, write_point_viewer

    result = point_evaluation.evaluate_points(folder / "run", folder / "studies", folder / "points.json", n_sets=10)
    assert result["scale"] == "mock" and [row["method"] for row in result["reconstruction"]][0] == "model"
    page = folder / "pages/points.html"
    write_point_viewer(folder / "run", folder / "studies", page, n=5)
    text = page.read_text()
    studies = json.loads(re.search(r"studies = (\[.*\]);", text)[1])
    assert len(studies) == 5 and all(len(one["reconstructed"]) == 30 for one in studies)
    assert all(10 <= len(one["original"]) <= 30 for one in studies) and "Mock data" in text
    assert f'src="{LIBRARY}"' in text and (page.parent / LIBRARY).stat().st_size > 1e6 and len(text) < 500_000
    assert "http" not in text
    atlas_points.render(folder / "run", folder / "studies", folder / "points.json", folder / "fig", n=5)
    assert (folder / "fig.png").stat().st_size > 10_000
