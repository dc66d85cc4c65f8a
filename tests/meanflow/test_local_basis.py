"""Local bases: orthonormal, of the covariance of the data, without seams between blocks."""

import pytest
import torch

from neuromf.core import seeds
from neuromf.meanflow import local_basis

SHAPE = (2, 8, 4, 12)


def normal(*shape, key=0):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def as_matrix(function, n=768):
    """Matrix of a linear function of latents."""
    unit = torch.eye(n, dtype=torch.float64).view(n, *SHAPE)
    return function(unit).flatten(1).T


@pytest.mark.parametrize("block", [1, 2, 4])
def test_blocks_are_an_orthonormal_transform_and_its_inverse(block):
    matrix = as_matrix(lambda a: local_basis.from_blocks(local_basis.to_blocks(a, block), SHAPE, block, lapped=False))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(768, dtype=torch.float64))
    a = normal(3, *SHAPE)
    torch.testing.assert_close(local_basis.from_blocks(local_basis.to_blocks(a, block), SHAPE, block), a)


def test_blocks_of_one_position_are_the_channels():
    a = normal(3, *SHAPE)
    torch.testing.assert_close(local_basis.to_blocks(a, 1)[13].T, a[:, :, 0, 1, 1], rtol=0, atol=0)
    assert local_basis.rotate_across_borders(a, 1) is a


def test_the_rotation_leaves_the_outer_half_blocks_and_mixes_equal_distances_from_a_border():
    a = torch.zeros(1, 1, 12, 4, 4, dtype=torch.float64)
    a[0, 0, 3, 1, 1] = 1  # the last position of the first block, a half position from the border
    rotated = local_basis.rotate_across_borders(a, 4)[0, 0, :, 1, 1]
    angle = torch.tensor(33.75, dtype=torch.float64).deg2rad()
    expected = torch.zeros(12, dtype=torch.float64)
    expected[3], expected[4] = angle.cos(), -angle.sin()
    torch.testing.assert_close(rotated, expected)
    ends = [0, 1, -1, -2]
    torch.testing.assert_close(local_basis.rotate_across_borders(normal(1, 1, 12, 4, 4), 4)[:, :, ends],
                               normal(1, 1, 12, 4, 4)[:, :, ends])  # fmt: skip


@pytest.mark.parametrize("block", [1, 2, 4])
def test_coefficients_in_the_eigenbasis_are_uncorrelated_with_the_eigenvalues_as_variances(block):
    x = normal(900, *SHAPE) @ normal(12, 12, key="mixing")
    values, vectors = local_basis.eigenbasis(x, block)
    assert vectors.shape == (384 // block**3, 2 * block**3, 2 * block**3)
    coefficients = local_basis.to_eigenbasis(x, vectors)
    torch.testing.assert_close(coefficients.square().mean(0), values)
    torch.testing.assert_close(local_basis.from_eigenbasis(coefficients, vectors), x)
    blocks = local_basis.to_blocks(coefficients, block, lapped=False)[0]
    covariance = blocks @ blocks.T / 900
    torch.testing.assert_close(covariance, torch.diag(covariance.diag()), rtol=0, atol=1e-9)


def test_full_shrinkage_leaves_the_covariance_of_channels_at_each_position():
    x = normal(50, *SHAPE) @ normal(12, 12, key="mixing")
    values, vectors = local_basis.eigenbasis(x, 4, shrinkage=1.0)
    covariance = vectors[0] @ torch.diag(local_basis.to_blocks(values[None], 4, lapped=False)[0, :, 0]) @ vectors[0].T
    rotated = local_basis.to_blocks(x, 4)[0]
    expected = (rotated @ rotated.T / 50).view(2, 64, 2, 64)
    expected = torch.einsum("cpdp,pq->cpdq", expected, torch.eye(64, dtype=torch.float64)).reshape(128, 128)
    torch.testing.assert_close(covariance, expected)


def test_the_floor_is_added_to_the_variance_of_each_channel():
    x = normal(50, *SHAPE)
    plain = local_basis.eigenbasis(x, 2)[0].double()
    torch.testing.assert_close(local_basis.eigenbasis(x, 2, floor=0.5)[0], plain + 0.5)
    values, vectors = local_basis.eigenbasis(0 * x, 2, floor=torch.tensor([0.0, 2.0]))
    assert sorted(values.unique().tolist()) == [0.0, 2.0]


def test_channels_without_eigenvectors_remain_as_they_are():
    x, further = normal(50, *SHAPE), normal(50, 3, *SHAPE[1:], key="further")
    _, vectors = local_basis.eigenbasis(x, 2)
    both = torch.cat([x, further], dim=1)
    coefficients = local_basis.to_eigenbasis(both, vectors)
    torch.testing.assert_close(coefficients[:, 2:], further, rtol=0, atol=0)
    torch.testing.assert_close(coefficients[:, :2], local_basis.to_eigenbasis(x, vectors), rtol=0, atol=0)
    torch.testing.assert_close(local_basis.from_eigenbasis(coefficients, vectors), both)


def test_samples_of_a_smooth_field_have_no_seam():
    """Steps across a border between blocks are as large as those inside a block; without rotation they are larger."""
    x = normal(4000, 1, 16, 4, 4)
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64) / 16
    smooth = torch.nn.functional.conv1d(x.movedim(2, -1).reshape(-1, 1, 16), kernel.view(1, 1, 5), padding=2)
    x = smooth.view(4000, 1, 4, 4, 16).movedim(-1, 2)
    ratios = {}
    for lapped in (True, False):
        blocks = local_basis.to_blocks(x, 4, lapped=lapped)
        roots = [
            torch.linalg.cholesky(part @ part.T / 4000 + 1e-9 * torch.eye(64, dtype=torch.float64)) for part in blocks
        ]
        drawn = torch.stack(roots) @ normal(4, 64, 4000, key="noise")
        field = local_basis.from_blocks(drawn, torch.Size([1, 16, 4, 4]), 4, lapped=lapped)
        steps = field.diff(dim=2).square().mean((0, 1, 3, 4))
        ratios[lapped] = float(steps[[3, 7, 11]].mean() / steps[[1, 5, 9, 13]].mean())
    assert ratios[True] < 2 < ratios[False]


def test_blocks_that_do_not_divide_the_grid_are_refused():
    with pytest.raises(ValueError, match="blocks of 8 do not divide a latent axis of 4 positions"):
        local_basis.eigenbasis(normal(3, *SHAPE), 8)
