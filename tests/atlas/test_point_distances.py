"""Distances of point sets: exact cases, masks, and optimal transport as oracle."""

import numpy as np
import pytest
import torch

from neuromf.metrics.distances.point_sets import ACCURATE, chamfer, sinkhorn


def sets(n=20, m=30, batch=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 30 * torch.randn(batch, n, 3, generator=random), 30 * torch.randn(batch, m, 3, generator=random)


@pytest.mark.critical
def test_A37_distances_of_equal_sets_are_zero_in_any_order():
    a, _ = sets()
    b = a[:, torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    assert chamfer(a, b).max() == 0
    assert chamfer(a, b, squared=False).max() < 1e-5
    assert sinkhorn(a, b).abs().max() < 1e-2


@pytest.mark.critical
def test_A37_chamfer_of_shifted_points_is_known():
    a = torch.tensor([[[0.0, 0, 0], [100, 0, 0]]])
    b = torch.tensor([[[3.0, 4, 0], [100, 0, 12]]])
    assert float(chamfer(a, b)) == pytest.approx(2 * (25 + 144) / 2)
    assert float(chamfer(a, b, squared=False)) == pytest.approx(2 * (5 + 12) / 2)


@pytest.mark.critical
def test_A37_sinkhorn_is_the_earth_movers_distance_at_small_blur():
    ot = pytest.importorskip("ot")
    a, b = sets()
    mask = torch.arange(20)[None] < torch.tensor([5, 13, 20])[:, None]
    exact = [ot.emd2([], [], ot.dist(x[real].double().numpy(), y.double().numpy(), "euclidean"))
             for x, y, real in zip(a, b, mask, strict=True)]  # fmt: skip
    np.testing.assert_allclose(sinkhorn(a, b, mask, blur_mm=0.5, scaling=ACCURATE), exact, rtol=0.03)
    np.testing.assert_allclose(sinkhorn(a, b, mask), exact, rtol=0.09)
    torch.testing.assert_close(sinkhorn(a, b, mask)[:1], sinkhorn(a[:1], b[:1], mask[:1]))  # not a matter of the batch


@pytest.mark.critical
def test_A37_only_points_of_the_mask_count():
    a, b = sets()
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) < 0.5
    moved = torch.where(mask[..., None], a, torch.full_like(a, 90.0))
    for distance in (chamfer, lambda *args: chamfer(*args, squared=False), sinkhorn):
        torch.testing.assert_close(distance(a, b, mask), distance(moved, b, mask), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(distance(b, a, None, mask), distance(b, moved, None, mask), rtol=1e-5, atol=1e-3)
        assert (distance(a, b) - distance(moved, b)).abs().min() > 0.5
        alone = [distance(one[real][None], other[None]) for one, other, real in zip(a, b, mask, strict=True)]
        torch.testing.assert_close(distance(a, b, mask), torch.cat(alone), rtol=1e-4, atol=1e-3)


@pytest.mark.critical
def test_A37_other_types_than_float32_are_refused():
    a, b = sets()
    for distance in (chamfer, sinkhorn):
        with pytest.raises(ValueError, match="point sets must be float32; got torch.float16"):
            distance(a.half(), b)


def test_gradients_are_those_of_finite_differences():
    a, b = (one[:1, :4].clone() for one in sets())
    b.requires_grad_()
    (gradient,) = torch.autograd.grad(chamfer(a, b).sum(), b)
    step = torch.zeros_like(b)
    step[0, 1, 2] = 0.01
    with torch.no_grad():
        numeric = (chamfer(a, b + step) - chamfer(a, b - step)) / 0.02
    assert float(numeric) == pytest.approx(float(gradient[0, 1, 2]), rel=0.02)
