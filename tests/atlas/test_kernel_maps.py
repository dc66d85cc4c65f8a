"""Kernel maps: peak, width, combination, augmentation, counts."""

import numpy as np
import pytest

from neuromf.atlas.kernel_maps import (
    augmented_precision,
    combine_kernels,
    foci_counts,
    kernel_map,
    kernel_maps,
)
from neuromf.data.brain_grid import brain_grid

GRID = brain_grid("6mm")
FWHM_OVER_SIGMA = (8 * np.log(2)) ** 0.5
CENTRE = GRID.centres_mm[GRID.mask_index([[0, -60, 12]])[0]]


def naive(points, fwhm, combine):
    """Kernels at every voxel of the mask, combined one by one."""
    sigma = fwhm / FWHM_OVER_SIGMA
    kernels = [np.exp(-((GRID.centres_mm - point) ** 2).sum(1) / (2 * sigma**2)) for point in points]
    if combine == "noisy_or":
        return 1 - np.prod([1 - k for k in kernels], axis=0)
    return np.minimum(np.sum(kernels, axis=0), 1) if combine == "sum" else np.max(kernels, axis=0)


@pytest.mark.parametrize("name", ["6mm", "2mm"])
@pytest.mark.parametrize("fwhm", [6.0, 9.0, 12.0])
def test_A08_a_single_focus_has_peak_1_and_its_width(name, fwhm):
    grid = brain_grid(name)
    point = grid.centres_mm[grid.mask_index([[0, -60, 12]])[0]]
    values = kernel_map(point[None], grid, fwhm)
    assert values.max() == 1 and np.allclose(grid.centres_mm[values.argmax()], point)
    distance = np.linalg.norm(grid.centres_mm - point, axis=1)
    near = (values > 0.01) & (distance > 0)
    if near.any():  # a kernel of 6 mm may be below a voxel of 6 mm
        sigma = np.sqrt(-(distance[near] ** 2) / (2 * np.log(values[near].astype(float))))
        assert np.allclose(sigma * FWHM_OVER_SIGMA, fwhm, rtol=0.05)


@pytest.mark.parametrize("combine", ["noisy_or", "sum", "max"])
def test_A08_kernels_are_those_of_the_formula(combine):
    points = CENTRE + np.random.default_rng(0).normal(0, 8, (12, 3))
    assert np.abs(kernel_map(points, GRID, 12.0, combine) - naive(points, 12.0, combine)).max() < 0.005


def test_A08_two_coincident_foci_do_not_exceed_1():
    twice, once = (kernel_map(np.repeat(CENTRE[None] + 2, n, 0), GRID, 9.0) for n in (2, 1))
    assert twice.max() <= 1
    assert np.allclose(twice, 1 - (1 - once) ** 2, atol=1e-6)


def test_maps_of_studies_are_those_of_each_study(mock_studies):
    few = mock_studies.take([3, 0, 7])
    maps = kernel_maps(few, GRID, 12.0, dtype=np.float32)
    for k in range(3):
        assert np.allclose(maps[k], kernel_map(few.foci(k), GRID, 12.0), atol=1e-6)
    half = kernel_maps(few, GRID, 12.0)
    assert half.dtype == np.float16 and np.abs(half - maps).max() < 1e-3


def test_maps_do_not_depend_on_chunks(mock_studies, monkeypatch):
    whole = kernel_maps(mock_studies, GRID, 9.0)
    monkeypatch.setattr("neuromf.atlas.kernel_maps.FOCI_PER_CHUNK", 2**13)
    assert np.array_equal(kernel_maps(mock_studies, GRID, 9.0), whole)


def test_foci_off_the_grid_are_ignored_and_no_foci_give_0():
    assert not kernel_map(np.array([[500.0, 0, 0]]), GRID, 9.0).any()
    assert not kernel_map(np.zeros((0, 3)), GRID, 9.0).any()


def test_unknown_combinations_are_refused():
    with pytest.raises(ValueError, match="noisy_or, sum or max; got 'mean'"):
        combine_kernels(CENTRE[None], np.zeros(1, int), 1, GRID, 9.0, "mean")


def test_A09_augmented_kernels_are_scaled_by_up_to_a_fifth():
    sigma = 12.0 / FWHM_OVER_SIGMA
    precision = augmented_precision(500, 12.0, np.random.default_rng(0))
    widths = np.sqrt(1 / np.linalg.eigvalsh(precision)) / sigma
    assert 0.8 <= widths.min() < 0.81 and 1.19 < widths.max() <= 1.2
    axes = np.linalg.eigh(precision)[1][:, :, 0]
    assert np.abs((axes**2).mean(0) - 1 / 3).max() < 0.05  # no preferred direction


def test_A09_a_map_has_the_covariance_of_its_kernel():
    grid = brain_grid("2mm")
    point = grid.centres_mm[grid.mask_index([[30, -20, 40]])[0]]
    precision = augmented_precision(1, 9.0, np.random.default_rng(1))
    values = kernel_map(point[None], grid, 9.0, precision=precision).astype(float)
    offsets = grid.centres_mm - point
    found = (offsets * values[:, None]).T @ offsets / values.sum()
    assert np.allclose(found, np.linalg.inv(precision[0]), rtol=0.1, atol=0.4)
    isotropic = np.eye(3)[None] * (FWHM_OVER_SIGMA / 9.0) ** 2
    assert np.allclose(kernel_map(point[None], grid, 9.0, precision=isotropic), kernel_map(point[None], grid, 9.0),
                       atol=1e-6)  # fmt: skip


def test_counts_are_the_foci_in_the_mask(mock_studies):
    counts = foci_counts(mock_studies, GRID)
    assert counts.shape == (len(mock_studies), GRID.n_voxels)
    assert counts.sum() == len(mock_studies.points)  # the 6 mm mask holds that of 2 mm
    assert np.array_equal(np.asarray(counts.sum(1)).ravel(), mock_studies.table["n_foci"])
