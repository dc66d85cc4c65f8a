"""Equivariance errors of autoencoders that commute exactly, and of ones with a known error."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from neuromf.core import seeds
from neuromf.metrics.images import equivariance

SHAPE = (32, 40, 24)
STD = [1.0, 2.0, 4.0, 8.0]


def volumes(n=2, dtype=torch.float64):
    return torch.rand((n, 1, *SHAPE), generator=seeds.generator("test", "equivariance"), dtype=dtype)


def encode(volume):
    """Block averages in four channels of different scale; the second moment is not used."""
    mean = F.avg_pool3d(volume, 4) * torch.tensor(STD, dtype=volume.dtype).view(1, 4, 1, 1, 1)
    return mean, mean


def decode(latent):
    return F.interpolate(latent[:, :1], scale_factor=4, mode="nearest")


def ramp(axis, size=0.3, n=None):
    """Latents that get brighter by `size` s.d. in the lower half of an axis: an encoder that does not commute."""
    n = n or SHAPE[axis] // 4
    low = (torch.arange(n) < n // 2).double().view([-1 if axis == k else 1 for k in range(3)])
    return size * low * torch.tensor(STD).double().view(1, 4, 1, 1, 1)


# --- flips from left to right -------------------------------------------------------------------------


def test_an_equivariant_autoencoder_has_no_flip_error():
    got = equivariance.flip_error(
        lambda volume: (volume.repeat(1, 4, 1, 1, 1), volume),
        lambda z: z[:, :1] + 0.1,
        0.5 * volumes(dtype=torch.float32),
        [1.0] * 4,
    )
    assert got["flip_error"] == 0
    for name in ("psnr_of_flipped_volumes", "psnr_of_flipped_latents"):
        assert got[name] == pytest.approx(-20 * math.log10(0.1), rel=1e-4)


def test_an_asymmetric_autoencoder_has_its_known_flip_error():
    def asymmetric(volume):
        return encode(volume)[0] + ramp(0, n=volume.shape[2] // 4).float(), volume

    got = equivariance.flip_error(asymmetric, decode, volumes(dtype=torch.float32), STD)
    assert got["flip_error"] == pytest.approx(0.3, rel=1e-5)
    assert got["psnr_of_flipped_latents"] != got["psnr_of_flipped_volumes"]
    by_axis = equivariance.errors_by_axis(asymmetric, decode, volumes(dtype=torch.float32), STD)["flip_error_by_axis"]
    assert by_axis[0] == got["flip_error"] and by_axis[1:] == pytest.approx([0, 0], abs=1e-6)


def test_a_known_flip_error_is_not_computed_again():
    calls, x = [], volumes()

    def counted(volume):
        calls.append(volume)
        return encode(volume)

    computed = equivariance.errors_by_axis(counted, decode, x, STD)
    n = len(calls)
    known = equivariance.errors_by_axis(counted, decode, x, STD, flip_error=0.25)
    assert len(calls) - n == n - len(x)
    assert known["flip_error_by_axis"] == [0.25, *computed["flip_error_by_axis"][1:]]


# --- flips, shifts and sizes along each axis ----------------------------------------------------------


def test_block_averages_commute_with_flips_shifts_and_halving():
    got = equivariance.errors_by_axis(encode, decode, volumes(), STD)
    for name in ("flip_error_by_axis", "shift_error_by_axis", "scale_error_by_axis"):
        assert got[name] == pytest.approx([0, 0, 0], abs=1e-14), name


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_error_along_one_axis_is_reported_for_that_axis_in_standard_deviations(axis):
    def asymmetric(volume):
        return encode(volume)[0] + ramp(axis, n=volume.shape[axis + 2] // 4), volume

    got = equivariance.errors_by_axis(asymmetric, decode, volumes(), STD)
    n = SHAPE[axis] // 4
    # flipped: the ramp is wrong everywhere; shifted by one position: at the two ends of the bright half
    expected = {"flip_error_by_axis": 0.3, "shift_error_by_axis": 0.3 * math.sqrt(2 / n), "scale_error_by_axis": 0}
    if n // 2 % 2:  # halving mixes the two sides at one position of n / 2
        expected["scale_error_by_axis"] = 0.15 / math.sqrt(n // 2)
    for name, value in expected.items():
        assert got[name][axis] == pytest.approx(value, rel=1e-12, abs=1e-14), name
        assert [got[name][k] for k in range(3) if k != axis] == pytest.approx([0, 0], abs=1e-14)


def test_a_size_that_the_autoencoder_does_not_take_has_no_error():
    small = volumes()[:, :, :4, :24]  # one position, which cannot be halved, and two pieces of three positions
    got = equivariance.errors_by_axis(encode, decode, small, STD, splits=2)["scale_error_by_axis"]
    assert got[:2] == [None, None] and got[2] == pytest.approx(0, abs=1e-14)


def test_decoded_fractions_of_a_position_have_their_known_error():
    """Positions along one axis hold 0 and 0.5 in turn; between neighbours the difference is d = 0.5 everywhere.

    Shifted by one voxel, three voxels of a position are wrong by d / 4 and one by 3 d / 4; by two voxels, all by d / 2.
    """
    latent = 0.5 * (torch.arange(6) % 2).double().view(1, 1, -1, 1, 1).expand(2, 4, 6, 2, 2)
    got = equivariance.psnr_of_shifted_latents(decode, decode(latent), latent)
    squares = [3 / 16, 1 / 4, 3 / 16]
    assert got == pytest.approx([-10 * math.log10(0.25 * square) for square in squares], rel=1e-12)


def test_latents_are_shifted_as_volumes_at_whole_positions():
    latent = torch.rand(1, 4, 3, 5, 2, generator=seeds.generator("test", "shift"), dtype=torch.float64)
    assert torch.equal(equivariance.shift_latents(latent, 0), latent)
    assert torch.equal(equivariance.shift_latents(latent, 1), latent.roll((1, 1, 1), (2, 3, 4)))
    half = equivariance.shift_latents(latent, 0.5)
    torch.testing.assert_close(half[0, 0, 1, 1, 1], latent[0, 0, :2, :2, :].mean())


def test_errors_count_every_volume():
    def brighter_second(volume):
        return encode(volume)[0] + (ramp(0) if volume.sum() > 1e3 else 0), volume

    x = torch.cat([torch.zeros(1, 1, *SHAPE), torch.ones(1, 1, *SHAPE)]).double()
    error = partial(
        equivariance.latent_error, brighter_second, x, torch.cat([brighter_second(v)[0] for v in x.split(1)]), STD
    )
    assert equivariance.flip_error_along(0, error) == pytest.approx(0.3 / math.sqrt(2))
