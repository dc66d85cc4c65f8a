"""Backgrounds that are not the minimum, defective voxels, and brain masks that are not binary."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from neuromf.data import background, masks, preprocessing, scans

SHAPE = (40, 48, 40)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
GRID = {"spacing_mm": 3.0, "shape": SHAPE}
POINTS = (np.stack(np.indices(SHAPE), axis=-1) - [19.5, 23.5, 19.5]) / [13, 16, 13]
DISTANCE = np.linalg.norm(POINTS, axis=-1)
BRAIN, HEAD = DISTANCE < 1, DISTANCE < 1.3


def tissue():
    """Intensities of 60 to 140 everywhere."""
    fine = np.random.default_rng(0).normal(0, 4, SHAPE)
    return (100 + 30 * np.sin(9 * POINTS[..., 0]) * np.sin(8 * POINTS[..., 1]) + fine).astype(np.float32)


def stripped():
    return tissue() * BRAIN


def z_scored():
    """Standardised inside the brain; the air stays 0, between dark and bright tissue."""
    values = tissue()
    return np.where(BRAIN, (values - values[BRAIN].mean()) / values[BRAIN].std(), 0).astype(np.float32)


def ringing():
    """A skull-stripped scan moved by splines, which overshoot below 0 at the border."""
    moved = ndimage.shift(stripped(), 0.4, order=3, prefilter=True)
    return np.where(ndimage.binary_dilation(BRAIN, iterations=2), moved, 0).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def make(data, name="s.nii.gz"):
        nib.save(nib.Nifti1Image(np.asarray(data, np.float32), AFFINE), tmp_path / name)
        return tmp_path / name

    return make


def whole_head():
    """A head of 100 around the brain, in noise."""
    noise = np.random.default_rng(1).uniform(0, 9, SHAPE)
    return (noise + stripped() + 100.0 * (HEAD & ~BRAIN)).astype(np.float32)


@pytest.mark.parametrize("make", [z_scored, ringing])
def test_air_is_black_whatever_the_background_is(save, make):
    assert (make() < 0).any()
    volume, _, facts = preprocessing.prepare(save(make()), **GRID)
    plain, _, expected = preprocessing.prepare(save(stripped()), **GRID)
    assert facts["stripped_by"] == expected["stripped_by"] == "already"
    assert 0.99 < facts["foreground_ml"] / expected["foreground_ml"] < 1.5  # ringing is a rim; the box is 7 brains
    assert (volume[DISTANCE > 1.2] == 0).all() and volume[DISTANCE < 0.8].mean() > 0.3
    assert facts["note"].startswith("background of 0 lies between") or make is ringing


def test_contrast_of_z_scores_is_that_of_intensities(save):
    volume, plain = (preprocessing.prepare(save(make()), **GRID)[0] for make in (z_scored, stripped))
    inner = DISTANCE < 0.9
    assert np.corrcoef(volume[inner], plain[inner])[0, 1] > 0.999
    facts = preprocessing.prepare(save(z_scored()), **GRID)[2]
    assert facts["low"] == pytest.approx(z_scored()[BRAIN].min(), abs=0.1) and facts["high"] > 1


@pytest.mark.parametrize("offset", [-1000.25, -3.1, 12.7])
def test_any_constant_background_gives_the_same_volume(save, offset):
    settings = GRID | {"spacing_mm": 2.3}
    shifted, _, facts = preprocessing.prepare(save(stripped() + np.float32(offset)), **settings)
    plain, _, expected = preprocessing.prepare(save(stripped()), **settings)
    assert facts["foreground_ml"] == expected["foreground_ml"] and facts["stripped_by"] == "already"
    np.testing.assert_allclose(shifted, plain, atol=1e-4)
    assert facts["high"] == pytest.approx(expected["high"] + offset, abs=0.01)


def test_a_scan_with_a_background_of_zero_is_not_changed():
    data = stripped()
    image = nib.Nifti1Image(data, AFFINE, extra={"notes": []})
    cleaned, offset = background.clean_background(image)
    assert offset == 0 and cleaned.get_fdata(dtype=np.float32).tobytes(order="K") == data.tobytes(order="K")
    head = nib.Nifti1Image(whole_head(), AFFINE, extra={"notes": []})
    assert background.clean_background(head)[0].get_fdata(dtype=np.float32).tobytes() == whole_head().tobytes()


@pytest.mark.parametrize("make", [whole_head, stripped])
@pytest.mark.parametrize("hot", [-32768, -5000])
def test_hot_voxels_do_not_bleach_the_head(save, make, hot):
    data = make()
    data[20, 24, 20] = hot
    volume, _, facts = preprocessing.prepare(save(data), **GRID)
    plain, _, expected = preprocessing.prepare(save(make()), **GRID)
    assert facts["foreground_ml"] == pytest.approx(expected["foreground_ml"], rel=0.01)
    far = np.ones(SHAPE, bool)
    far[17:24, 21:28, 17:24] = False
    np.testing.assert_allclose(volume[far], plain[far], atol=0.05)
    assert facts["note"].startswith("1 voxels below ") and f"down to {hot}, were raised" in facts["note"]


def test_padding_far_below_the_air_is_air(save):
    data = whole_head()
    data[:, :, 34:] = -32768
    data[:, :, :5] = -32768
    volume, _, facts = preprocessing.prepare(save(data), **GRID)
    assert facts["mean"] == pytest.approx(preprocessing.prepare(save(whole_head()), **GRID)[2]["mean"], abs=0.1)
    assert facts["low"] > -1 and volume[DISTANCE < 0.9].mean() < 0.9


def test_air_of_zero_around_a_head_does_not_make_it_a_brain(save):
    """A defaced head whose air was set to 0 has no isolated voxels, but more volume than a brain."""
    to_world = np.diag([5.0, 5.0, 5.0, 1.0])
    path = save(0)
    nib.save(nib.Nifti1Image(whole_head() * HEAD, to_world), path)
    settings = {"spacing_mm": 5.0, "shape": SHAPE}
    assert preprocessing.prepare(path, **settings)[2]["stripped_by"] == "none"
    nib.save(nib.Nifti1Image(stripped(), np.diag([4.0, 4.0, 4.0, 1.0])), path)
    assert preprocessing.prepare(path, **settings)[2]["stripped_by"] == "already"


# --- scouts ------------------------------------------------------------------------------------------


def test_scouts_are_excluded_by_their_extent(tmp_path):
    nib.save(nib.Nifti1Image(whole_head()[:, :, 18:21], np.diag([3.0, 3, 8, 1])), tmp_path / "s.nii.gz")
    with pytest.raises(
        scans.BadScan, match="scout: s.nii.gz covers 120x144x24 mm, at least volumes.min_extent_mm = 60 mm"
    ):
        preprocessing.prepare(tmp_path / "s.nii.gz", **GRID, min_extent_mm=60.0)
    assert preprocessing.prepare(tmp_path / "s.nii.gz", **GRID, min_extent_mm=24.0)[2]["coverage"] == 1


# --- brain masks -------------------------------------------------------------------------------------


def smooth():
    """Probabilities of the brain."""
    return ndimage.gaussian_filter(BRAIN.astype(np.float32), 2)


MASKS = {
    "binary": lambda: BRAIN,
    "binary of 255": lambda: 255 * BRAIN,
    "scaled binary": lambda: 0.99995 * BRAIN,
    "labels": lambda: BRAIN * (1 + (np.arange(SHAPE[0]) // 4))[:, None, None],
    "labels in float": lambda: BRAIN * (1 + 1e-5 + (np.arange(SHAPE[0]) // 4))[:, None, None],
    "dust": lambda: BRAIN + 1e-14 * (DISTANCE < 1.5),
    "negative dust": lambda: BRAIN - 1e-5 * (DISTANCE > 1),
    "probabilities": smooth,
    "percent": lambda: 100 * smooth() + 0.01,
    "splines": lambda: ndimage.zoom(ndimage.zoom(BRAIN.astype(np.float32), 0.5, order=1), 2, order=3),
}


RESAMPLED = {"splines", "probabilities", "percent"}  # their half maximum lies inside a curved surface


@pytest.mark.parametrize("name", MASKS)
def test_the_brain_has_its_volume_in_masks_of_any_kind(save, name):
    found = masks.brain_mask_of(nib.load(save(MASKS[name]())), name)
    assert found.sum() == pytest.approx(BRAIN.sum(), rel=0.07 if name in RESAMPLED else 1e-9)
    _, _, facts = preprocessing.prepare(save(whole_head()), mask=save(MASKS[name](), "m.nii.gz"), **GRID)
    assert facts["foreground_ml"] == pytest.approx(BRAIN.sum() * 0.027, rel=0.07) and facts["stripped_by"] == "mask"


def test_an_inverted_brain_mask_is_refused(save):
    with pytest.raises(
        scans.BadScan, match="inverted mask: all corners of m.nii.gz are marked as brain; exchange 0 and 1"
    ):
        preprocessing.prepare(save(whole_head()), mask=save(1 - BRAIN.astype(int), "m.nii.gz"), **GRID)
    full = save(np.ones(SHAPE), "m.nii.gz")
    assert preprocessing.prepare(save(whole_head()), mask=full, **GRID)[2]["stripped_by"] == "mask"
