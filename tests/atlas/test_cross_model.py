"""Canonical correlations: a shared factor, independent latents, and the library's own method as oracle."""

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from neuromf.atlas.cross_model import canonical_correlations, whitening


def latents(shared, n=600, seed=0):
    random = np.random.default_rng(seed)
    factor = random.standard_normal(n)
    x, y = random.standard_normal((n, 5)), random.standard_normal((n, 4))
    if shared:
        x[:, 2], y[:, 1] = factor, factor
    mix = random.standard_normal((4, 4)) + 2 * np.eye(4)
    return x, y @ mix, np.array(["train", "val", "test"])[np.arange(n) % 3]


@pytest.mark.critical
def test_A47_a_shared_factor_has_correlation_one():
    found = canonical_correlations(*latents(True))
    assert found.test[0] == pytest.approx(1, abs=1e-6) and found.p_values[0] == pytest.approx(1 / 201)
    assert found.p_values[1:].min() > 0.01 and found.cross.shape == (5, 4)


@pytest.mark.critical
def test_A47_independent_latents_are_in_the_null_distribution():
    found = canonical_correlations(*latents(False))
    assert found.p_values.min() > 0.05 and (found.test < found.null_95).all()
    assert found.train[0] > 2 * abs(found.test[0])  # training correlations are biased upwards


@pytest.mark.critical
def test_A47_directions_are_fitted_to_training_studies():
    x, y, split = latents(True)
    moved = np.where((split == "train")[:, None], x, 100 * x[:, ::-1])
    np.testing.assert_allclose(canonical_correlations(x, y, split, n_permutations=0).train,
                               canonical_correlations(moved, y, split, n_permutations=0).train)  # fmt: skip


def test_correlations_are_those_of_sklearn():
    x, y, split = latents(True, seed=1)
    x[:, 2] += 0.5 * np.random.default_rng(2).standard_normal(len(x))
    rows = split == "train"
    a, b = CCA(2, max_iter=5000, tol=1e-10).fit_transform(x[rows], y[rows])
    expected = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(2)]
    np.testing.assert_allclose(canonical_correlations(x, y, split, n_permutations=0).train[:2], expected, rtol=1e-4)


def test_whitened_latents_have_covariance_one():
    x = latents(True)[1]
    mean, matrix = whitening(x)
    np.testing.assert_allclose(np.cov((x - mean) @ matrix, rowvar=False), np.eye(4), atol=1e-4)


def test_too_few_studies_are_refused():
    x, y, split = latents(True, n=27)
    with pytest.raises(ValueError, match="more than 9 train and 3 test studies are needed; got 9, 9"):
        canonical_correlations(x, y, split)
