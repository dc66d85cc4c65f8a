"""Batches of the volume model: shapes, kernel draw, halves of foci, missing metadata, checks that name the study."""

import numpy as np
import pytest
import torch

from neuromf.atlas.data_module import MapDataModule, check_batch
from neuromf.atlas.kernel_maps import foci_counts, kernel_maps
from neuromf.atlas.metadata import encode, fit_schema
from neuromf.data.brain_grid import brain_grid

GRID = brain_grid("6mm")


@pytest.fixture(scope="module")
def train_studies(mock_studies):
    return mock_studies.take(mock_studies.rows("train"))


def module_of(studies, **settings):
    values, observed = encode(studies, fit_schema(studies))
    return MapDataModule(studies, GRID, values, observed, **{"kernels": [9.0, 12.0], **settings})


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_A18_batches_have_their_shapes_and_both_kernels_are_drawn(train_studies):
    batch = module_of(train_studies).batch(np.arange(16), random_generator())
    assert batch.image.shape == (16, 1, 32, 40, 32) and batch.counts.shape == (16, GRID.n_voxels)
    assert set(batch.kernels.tolist()) == {9.0, 12.0}
    for k in (0, 5):
        expected = kernel_maps(train_studies.take([k]), GRID, float(batch.kernels[k]), dtype=np.float32)
        np.testing.assert_allclose(GRID.vector(batch.image[k, 0].numpy()), expected[0], atol=1e-6)
    np.testing.assert_array_equal(batch.counts.numpy(), foci_counts(train_studies.take(np.arange(16)), GRID).toarray())


def test_A18_a_draw_depends_on_its_generator_alone(train_studies):
    first, again = (module_of(train_studies, completion=0.5).batch([3, 1, 2], random_generator(4)) for _ in range(2))
    other = module_of(train_studies, completion=0.5).batch([3, 1, 2], random_generator(5))
    assert torch.equal(first.image, again.image) and torch.equal(first.counts, again.counts)
    assert not torch.equal(first.image, other.image)


def test_A18_a_study_that_two_epochs_share_in_a_batch_counts_once(train_studies):
    names = train_studies.table["id"].tolist()
    assert module_of(train_studies).batch([4, 9, 4], random_generator()).ids == [names[4], names[9]]


def test_A18_completion_observes_half_of_the_foci_and_predicts_the_others(train_studies):
    batch = module_of(train_studies, completion=1.0).batch(np.arange(8), random_generator())
    whole = foci_counts(train_studies.take(np.arange(8)), GRID).sum(1).A1
    n = batch.counts.sum(1).numpy()
    assert (np.abs(n - whole / 2) <= 0.5).all()
    assert torch.equal(batch.own, torch.from_numpy(GRID.vector(batch.image[:, 0].numpy())))
    full = kernel_maps(train_studies.take([0]), GRID, float(batch.kernels[0]), dtype=np.float32)[0]
    np.testing.assert_allclose(batch.target[0].numpy(), full, atol=1e-6)
    assert (batch.own[0].numpy() <= full + 1e-6).all() and batch.own[0].sum() < full.sum()


def test_A18_without_completion_the_decoder_observes_no_foci(train_studies):
    assert module_of(train_studies).batch([0, 1], random_generator()).own.abs().max() == 0


def test_A27_batches_hold_image_metadata_and_mask_and_nan_counts_as_missing(train_studies):
    values, observed = encode(train_studies, fit_schema(train_studies))
    values = values.copy()
    values[2, 0] = np.nan
    batch = MapDataModule(train_studies, GRID, values, observed, kernels=[9.0]).batch([2, 3], random_generator())
    assert batch.m.shape == batch.observed.shape == (2, values.shape[1])
    assert batch.m.isfinite().all() and not batch.observed[0, 0] and batch.observed[1, 0]


def test_A80_a_bad_map_names_its_study():
    maps, counts = np.full((2, 4), 0.5), np.ones((2, 4))
    check_batch(maps, counts, ["11", "22"])
    for value, message in (
        (np.nan, "not finite for studies \\['22'\\]"),
        (1.5, "outside \\[0, 1\\] for studies \\['22'\\]"),
    ):
        broken = maps.copy()
        broken[1, 2] = value
        with pytest.raises(ValueError, match=message):
            check_batch(broken, counts, ["11", "22"])
    with pytest.raises(ValueError, match="no foci in the mask: studies \\['11'\\]"):
        check_batch(maps, counts * np.array([[0], [1]]), ["11", "22"])
