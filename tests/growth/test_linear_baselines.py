"""Mean image and PCA as baselines of reconstruction."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from neuromf.metrics.images import linear_baselines as baselines


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    factors = random.normal(size=(40, 3)) @ random.normal(size=(3, 200))
    data = (5 + factors + 0.1 * random.normal(size=(40, 200))).astype(np.float32)
    return data[:30], data[30:]


@pytest.mark.parametrize("chunk", [64, 2**20])
def test_G47_errors_are_those_of_the_mean_image_and_of_scikit_learns_PCA(images, monkeypatch, chunk):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    train, val = images
    mean, pca = baselines.linear_baselines(train, val, 3)
    assert (mean.model, pca.model) == ("mean image", "PCA 3")
    assert mean.mse == pytest.approx(((val - train.mean(0)) ** 2).mean(), rel=1e-5)
    reference = PCA(3, svd_solver="full").fit(train)
    expected = ((val - reference.inverse_transform(reference.transform(val))) ** 2).mean()
    assert pca.mse == pytest.approx(expected, rel=1e-4) and pca.mse < 0.02 < mean.mse


def test_G47_at_most_one_component_less_than_images_is_used(images):
    train, val = images
    assert baselines.linear_baselines(train, val, 128)[1].model == "PCA 29"
    same = np.ones((4, 10), np.float32)
    assert [row.mse for row in baselines.linear_baselines(same, same, 2)] == [0.0, 0.0]
    with pytest.raises(ValueError, match="baselines need two training images"):
        baselines.linear_baselines(train[:1], val, 3)


def test_G47_a_message_says_which_baseline_wins(images):
    rows = baselines.linear_baselines(*images, 3)
    assert "does not beat PCA 3" in baselines.compare_with_baselines((rows[0].mse + rows[1].mse) / 2, rows)
    assert "does not beat mean image" in baselines.compare_with_baselines(2 * rows[0].mse, rows)
    assert "beats mean image" in baselines.compare_with_baselines(rows[1].mse / 2, rows)
