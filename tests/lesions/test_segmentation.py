"""Segmentation network: it learns, equal data and seeds give equal weights, and rows compare training sets."""

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.data.participants import write_table
from neuromf.lesions import segmentation


def simulated(n, seed=0, bright=0.5):
    """Images of noise with one bright box, and masks of the boxes."""
    rng = np.random.default_rng(seed)
    images, masks = 0.1 * rng.standard_normal((n, 32, 32, 32)).astype(np.float32), np.zeros((n, 32, 32, 32), bool)
    for image, mask in zip(images, masks, strict=True):
        box = tuple(slice(a, a + 8) for a in rng.integers(4, 20, 3))
        mask[box] = True
        image[box] += bright
    return images, masks


def test_the_network_finds_lesions_of_other_images():
    net = segmentation.train(*simulated(4, bright=0.8), steps=60, seed=0)
    images, masks = simulated(2, seed=1, bright=0.8)
    predicted = segmentation.predict(net, images)
    dices = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(predicted, masks, strict=True)]
    assert min(dices) > 0.6


def test_equal_data_and_seeds_give_equal_weights():
    first, again, other = (segmentation.train(*simulated(2), steps=2, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("around_lesion", [True, False])
def test_image_and_mask_of_a_crop_are_from_one_pair_and_place(around_lesion):
    images, masks = simulated(3)
    images = masks.astype(np.float32) * np.arange(1, 4)[:, None, None, None]
    padded = [np.pad(a, ((0, 0), (8, 8), (0, 0), (0, 0))) for a in (images, masks)]
    pairs = torch.from_numpy(np.stack(padded, 1)).float()
    lesions = [torch.nonzero(pair[1] > 0.5) for pair in pairs]
    rng = torch.Generator().manual_seed(0)
    for _ in range(8):
        image, mask = segmentation.crop(pairs, lesions, rng, around_lesion=around_lesion)
        assert image.shape == mask.shape == (32, 32, 32) and torch.equal(image > 0, mask > 0)
        assert len(image[image > 0].unique()) <= 1 and (mask.any() or not around_lesion)


def test_rows_compare_training_with_and_without_generated_pairs(monkeypatch, tmp_path):
    masks, trainings = simulated(3)[1], []

    def train(images, masks, *, steps, seed):
        trainings.append((len(images), steps, seed))
        return len(images)

    volumes = {"test": (masks, masks), "train": simulated(4), "generated": simulated(2)}
    monkeypatch.setattr(segmentation, "read_pair_volumes", lambda table: volumes[table["split"].iloc[0]])
    monkeypatch.setattr(segmentation, "train", train)
    monkeypatch.setattr(segmentation, "predict", lambda n, images: masks if n == 6 else masks & False)
    write_table(pd.DataFrame({"split": ["train"] * 4 + ["test"] * 3}), tmp_path / "pairs.tsv")
    write_table(pd.DataFrame({"split": ["generated"] * 2}), tmp_path / "samples.tsv")
    files = {"samples": tmp_path, "pairs": tmp_path / "pairs.tsv", "out": tmp_path / "out.csv"}
    table = segmentation.compare(**files, arm="main", segmentation_steps=7, seeds=[0, 1])
    assert trainings == [(4, 7, 0), (4, 7, 1), (6, 7, 0), (6, 7, 1)]
    values = table.set_index(["metric", "features"])["value"]
    assert values["segmentation_dice", "real"] == 0 and values["segmentation_dice", "real+generated"] == 1
    assert values["segmentation_gain", "2 seeds"] == 1 and values["segmentation_dice", "real, seed 1"] == 0
    assert pd.read_csv(tmp_path / "out.csv")["arm"].unique().tolist() == ["main"]


def test_pairs_of_different_shapes_are_refused():
    images, masks = simulated(2)
    with pytest.raises(ValueError, match="must have one shape, N at least 1; got"):
        segmentation.train(images, masks[:1], steps=1, seed=0)


def test_without_test_pairs_validation_pairs_are_taken():
    table = pd.DataFrame({"split": ["train", "val", "test"]})
    splits = [segmentation.evaluation_pairs(part)["split"].tolist() for part in (table, table[:2])]
    assert splits == [["test"], ["val"]]
    with pytest.raises(ValueError, match="no test or validation pair: set lesions.segmentation_steps to 0"):
        segmentation.evaluation_pairs(table[:1])
