"""The small segmentation network: it learns what is there, and equal data means equal weights."""

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.lesions import segmentation as segmenter
from workflow_scripts import segmentation


def made(n, seed=0, bright=0.5):
    """Noise with one bright box each, and where it is."""
    rng = np.random.default_rng(seed)
    images, masks = 0.1 * rng.standard_normal((n, 32, 32, 32)).astype(np.float32), np.zeros((n, 32, 32, 32), bool)
    for image, mask in zip(images, masks, strict=True):
        at = rng.integers(4, 20, 3)
        box = tuple(slice(a, a + 8) for a in at)
        mask[box] = True
        image[box] += bright
    return images, masks


def test_it_finds_what_it_was_shown():
    net = segmenter.train(*made(4, bright=0.8), steps=60, seed=0)
    images, masks = made(2, seed=1, bright=0.8)
    found = segmenter.predict(net, images)
    overlap = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(found, masks, strict=True)]
    assert min(overlap) > 0.6


def test_equal_data_and_seeds_give_equal_weights():
    first, again, other = (segmenter.train(*made(2), steps=2, seed=seed) for seed in (0, 0, 1))
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("lesion", [True, False])
def test_crops_are_cut_from_one_pair_alike(lesion):
    images, masks = made(3)
    images = masks.astype(np.float32) * np.arange(1, 4)[:, None, None, None]
    pairs = torch.from_numpy(
        np.stack([np.pad(a, ((0, 0), (8, 8), (0, 0), (0, 0))) for a in (images, masks)], 1)
    ).float()
    places = [torch.nonzero(pair[1] > 0.5) for pair in pairs]
    chance = torch.Generator().manual_seed(0)
    for _ in range(8):
        image, mask = segmenter.crop(pairs, places, chance, lesion=lesion)
        assert image.shape == mask.shape == (32, 32, 32) and torch.equal(image > 0, mask > 0)
        assert len(image[image > 0].unique()) <= 1 and (mask.any() or not lesion)


def test_rows_compare_training_with_and_without_generated_pairs(monkeypatch):
    seen = []

    def told(images, masks, *, steps, seed):
        seen.append((len(images), steps, seed))
        return len(images)

    truth = made(3)[1]
    monkeypatch.setattr(segmenter, "train", told)
    monkeypatch.setattr(segmenter, "predict", lambda n, images: truth if n == 6 else truth & False)
    rows = segmenter.compare(made(4), made(2), (truth, truth), steps=7, seeds=[0, 1])
    assert seen == [(4, 7, 0), (4, 7, 1), (6, 7, 0), (6, 7, 1)]
    values = {(row["metric"], row["features"]): row["value"] for row in rows}
    assert values["segmentation_dice", "real"] == 0 and values["segmentation_dice", "real+generated"] == 1
    assert values["segmentation_gain", "2 seeds"] == 1 and values["segmentation_dice", "real, seed 1"] == 0


def test_pairs_of_different_shapes_are_refused():
    images, masks = made(2)
    with pytest.raises(ValueError, match="must have one shape, N at least 1; got"):
        segmenter.train(images, masks[:1], steps=1, seed=0)


def test_without_test_pairs_those_of_validation_are_held_out():
    table = pd.DataFrame({"split": ["train", "val", "test"]})
    assert [segmentation.held_out(part)["split"].tolist() for part in (table, table[:2])] == [["test"], ["val"]]
    with pytest.raises(SystemExit, match="no pair is held out: set fcd.segmentation_steps to 0"):
        segmentation.held_out(table[:1])
