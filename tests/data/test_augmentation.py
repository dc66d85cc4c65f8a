"""Augmentation: changes depend on seed, scan and number only, and agree with NumPy."""

import typing

import numpy as np
import pytest

from neuromf.config import study
from neuromf.data import augmentation
from neuromf.data.augmentation import IDENTITY, MIRROR, Change, apply_change, draw_change


@pytest.fixture
def blob():
    """A smooth ball off the centre of an empty background."""
    i, j, k = np.meshgrid(*(np.arange(n) for n in (32, 40, 36)), indexing="ij")
    ball = np.exp(-((i - 20) ** 2 + (j - 18) ** 2 + (k - 17) ** 2) / (2 * 3.0**2))
    return np.where(ball > 0.02, ball, 0).astype(np.float32)


def centre(volume):
    """Centre of mass in voxels."""
    grid = np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij")
    return np.array([np.average(g, weights=volume) for g in grid])


def test_changes_depend_only_on_seed_scan_and_number():
    assert draw_change(0, "a", 1) == draw_change(0, "a", 1)
    assert len({draw_change(0, "a", 1), draw_change(1, "a", 1), draw_change(0, "b", 1), draw_change(0, "a", 2)}) == 4


def test_changes_fill_the_range_of_their_amounts():
    amounts = {"rotation_deg": 7.0, "scale": 0.1, "shift_mm": 2.0, "gamma": 0.3, "intensity": 0.2}
    drawn = [draw_change(0, "a", k, amounts=amounts) for k in range(200)]
    sizes = {
        "rotation_deg": [np.abs(c.rotation_deg).max() for c in drawn],
        "shift_mm": [np.abs(c.shift_mm).max() for c in drawn],
        **{name: [abs(np.log(getattr(c, name))) for c in drawn] for name in ("scale", "gamma", "intensity")},
    }
    for name, most in amounts.items():
        assert 0.95 * most < max(sizes[name]) <= most, name
        assert min(sizes[name]) < 0.5 * most, name


def test_mirror_flips_half_of_the_changes():
    assert 70 < sum(draw_change(0, "a", k, mirror=True).mirror for k in range(200)) < 130
    assert not any(draw_change(0, "a", k).mirror for k in range(50))


def test_an_unknown_amount_is_refused():
    with pytest.raises(ValueError) as error:
        draw_change(0, "a", 1, amounts={"zoom": 1.0})
    allowed = "rotation_deg, scale, shift_mm, gamma, intensity"
    assert str(error.value) == f"unknown augmentation zoom; allowed: {allowed}"


def test_amounts_of_zero_change_nothing():
    assert draw_change(0, "a", 1, amounts=dict.fromkeys(augmentation.AMOUNTS, 0.0)) == IDENTITY


def test_the_config_allows_every_amount():
    allowed = typing.get_args(study.Latents.model_fields["augmentation"].annotation)[0]
    assert set(typing.get_args(allowed)) == augmentation.AMOUNTS.keys()


def test_identity_and_mirror_are_exact(blob):
    assert np.array_equal(apply_change(blob, IDENTITY, spacing_mm=2), blob)
    assert np.array_equal(apply_change(blob, MIRROR, spacing_mm=2), blob[::-1])
    assert apply_change(blob, MIRROR, spacing_mm=2).flags.c_contiguous


def test_a_shift_moves_the_centre_of_mass_by_its_mm(blob):
    moved = apply_change(blob, Change(shift_mm=(4.0, -6.0, 3.0)), spacing_mm=(2.0, 2.0, 1.5))
    np.testing.assert_allclose(centre(moved) - centre(blob), [2, -3, 2], atol=0.02)


def test_a_shift_by_whole_voxels_is_a_roll(blob):
    moved = apply_change(blob, Change(shift_mm=(2.5, 0, 0)), spacing_mm=2.5)
    np.testing.assert_allclose(moved, np.roll(blob, 1, axis=0), atol=1e-6)


def test_a_rotation_by_90_degrees_equals_numpy():
    cube = np.random.default_rng(0).random((9, 9, 9)).astype(np.float32)
    turned = apply_change(cube, Change(rotation_deg=(0, 0, 90.0)), spacing_mm=1)  # x to y
    np.testing.assert_allclose(turned, np.rot90(cube, axes=(0, 1)), atol=1e-4)


def test_a_scale_grows_the_volume_by_its_cube_about_the_centre(blob):
    grown = apply_change(blob, Change(scale=1.1), spacing_mm=2)
    assert grown.sum() / blob.sum() == pytest.approx(1.1**3, rel=0.02)
    middle = (np.array(blob.shape) - 1) / 2
    np.testing.assert_allclose(centre(grown) - middle, 1.1 * (centre(blob) - middle), atol=0.05)


def test_rotation_is_in_world_space_for_anisotropic_voxels(blob):
    long = blob[:, :, ::2]  # voxels of 1 x 1 x 2 mm
    turned = apply_change(long, Change(rotation_deg=(90.0, 0, 0)), spacing_mm=(1, 1, 2))
    offset = (centre(long) - (np.array(long.shape) - 1) / 2) * [1, 1, 2]
    got = (centre(turned) - (np.array(turned.shape) - 1) / 2) * [1, 1, 2]
    np.testing.assert_allclose(got, [offset[0], -offset[2], offset[1]], atol=0.1)


def test_intensities_are_raised_scaled_and_clipped(blob):
    got = apply_change(blob, Change(gamma=1.3, intensity=1.2), spacing_mm=2)
    np.testing.assert_allclose(got, np.clip(1.2 * blob**1.3, 0, 1), rtol=1e-5)
    assert got.max() == 1


def test_an_empty_background_stays_empty(blob):
    block = np.zeros((24, 24, 24), np.float32)
    block[8:16, 8:16, 8:16] = 1.0  # hard edges, around which splines ring
    moved = apply_change(block, Change(rotation_deg=(3, 4, 5), shift_mm=(0.4, 0.3, -0.2)), spacing_mm=1)
    assert moved.min() == 0 and moved.max() <= 1
    assert (moved > 0).sum() < 1.35 * (block > 0).sum()
    noisy = apply_change(block + 0.05, Change(shift_mm=(0.5, 0, 0)), spacing_mm=1)
    assert (noisy > 0).mean() > 0.99  # a background that holds something keeps it


def test_voxels_from_outside_repeat_the_border():
    neck = np.tile(np.linspace(0.2, 0.8, 16, dtype=np.float32), (16, 16, 1))
    moved = apply_change(neck, Change(shift_mm=(3.0, 0, 0)), spacing_mm=1)
    np.testing.assert_allclose(moved, neck, atol=1e-5)
