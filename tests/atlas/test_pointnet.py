"""Point networks: Fourier features, farthest point sampling, and invariance to order and padding."""

import math

import pytest
import torch

from neuromf.nn import pointnet
from neuromf.nn.pointnet import FourierFeatures, PointNetEncoder, farthest_points, transport_embedding


@pytest.fixture
def sets():
    """Eight sets of 30 whole numbers of mm, some symmetric, so that distances tie; and masks with 3 to 30 points."""
    points = 6 * torch.randint(-10, 11, (8, 30, 3), generator=torch.Generator().manual_seed(0)).float()
    points[:, 1] = points[:, 0] * torch.tensor([-1.0, 1, 1])
    points[2:4] /= 3  # near the origin, where padding may be
    mask = torch.arange(30)[None] < torch.tensor([3, 4, 7, 12, 17, 22, 29, 30])[:, None]
    return points, mask


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PointNetEncoder(n_frequencies=16, width=32)


@pytest.fixture
def template():
    return 30 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.critical
def test_A33_expected_products_of_features_are_an_isotropic_gaussian_kernel():
    n, bandwidth = 20_000, 0.01
    features = FourierFeatures(n, bandwidth, seed=1).double()
    origin = features(torch.zeros(1, 3).double())
    for axis in (*torch.eye(3).double(), torch.ones(3).double() / math.sqrt(3)):
        for distance_mm in (5.0, 15.0, 30.0):
            kernel = float(features(distance_mm * axis[None]) @ origin.T) / n
            assert kernel == pytest.approx(math.exp(-2 * (math.pi * bandwidth * distance_mm) ** 2), abs=0.02)


@pytest.mark.critical
def test_A33_the_bandwidth_sets_the_length_that_features_resolve():
    x = torch.tensor([[0.0, 0, 0], [10, 0, 0]])
    narrow, wide, aliased = (FourierFeatures(4000, s)(x) for s in (0.003, 0.03, 1.0))
    alike = [float(one[0] @ one[1]) / 4000 for one in (narrow, wide, aliased)]
    assert alike[0] > 0.97 and alike[1] < 0.25 and abs(alike[2]) < 0.05  # 1.0 per mm: all neighbours look unrelated


@pytest.mark.critical
def test_A34_the_order_of_points_changes_nothing(encoder, sets, template):
    points, mask = sets
    shuffled = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(k)) for k in range(8)])
    again = points.gather(1, shuffled[..., None].expand(-1, -1, 3)), mask.gather(1, shuffled)
    torch.testing.assert_close(encoder(points, mask), encoder(*again), rtol=0, atol=1e-5)
    embedded = [transport_embedding(*one, template) / 100 for one in ((points, mask), again)]
    torch.testing.assert_close(*embedded, rtol=0, atol=1e-5)


@pytest.mark.critical
@pytest.mark.parametrize("value", [0.0, 55.0, float("nan")])
def test_A34_padding_changes_nothing(encoder, sets, template, value):
    points, mask = sets
    padded = torch.where(mask[..., None], points, torch.tensor(value))
    more = torch.cat([padded, torch.full((8, 5, 3), value)], 1), torch.cat([mask, torch.zeros(8, 5).bool()], 1)
    for k, n in enumerate(mask.sum(1).tolist()):
        alone = points[k : k + 1, :n], torch.ones(1, n).bool()
        torch.testing.assert_close(encoder(*more)[k], encoder(*alone)[0], rtol=0, atol=1e-5)
        embedded = [transport_embedding(*one, template) / 100 for one in (more, alone)]
        torch.testing.assert_close(embedded[0][k], embedded[1][0], rtol=0, atol=1e-5)


@pytest.mark.critical
def test_A34_a_padding_point_that_counts_is_caught(encoder, sets, template):
    points, mask = sets
    leaked = mask.clone()
    leaked[0, 3] = True
    assert (encoder(points, mask)[0] - encoder(points, leaked)[0]).abs().max() > 1e-3
    moved = transport_embedding(points, leaked, template) - transport_embedding(points, mask, template)
    assert moved[0].abs().max() > 1 and moved[1:].abs().max() == 0


@pytest.mark.critical
def test_A34_points_are_grouped_by_distance(sets):
    """A point outside every ball of a centre does not reach it."""
    torch.manual_seed(0)
    level = pointnet.SetAbstraction(2, 25.0, 4, 8, 8)
    near, far = torch.zeros(1, 3, 3), torch.full((1, 1, 3), 60.0)
    near[0, :, 0] = torch.tensor([0.0, 5.0, 10.0])
    points, features = torch.cat([near, far], 1), torch.randn(1, 4, 4)
    centres, before = level(points, features, torch.ones(1, 4).bool())
    features[0, 3] += 10
    _, after = level(points, features, torch.ones(1, 4).bool())
    of_far = (centres[0] == 60).all(1)
    assert of_far.sum() == 1
    assert torch.equal(before[0, ~of_far], after[0, ~of_far]) and not torch.equal(before[0, of_far], after[0, of_far])


def test_farthest_points_are_those_of_a_loop(sets):
    points, mask = sets
    found = farthest_points(points, mask, 5)
    for one, real, chosen in zip(points, mask, found, strict=True):
        assert real[chosen].all()
        for k in range(1, 5):
            reach = torch.cdist(one[real].double(), one[chosen[:k]].double()).min(1).values
            mine = torch.cdist(one[chosen[k]][None].double(), one[chosen[:k]].double()).min()
            assert mine == pytest.approx(float(reach.max()), abs=1e-4)


def test_networks_have_no_batch_norm_and_refuse_other_types(encoder, sets):
    assert not any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in encoder.modules())
    with pytest.raises(ValueError, match="points must be float32, also under autocast; got torch.float64"):
        encoder(sets[0].double(), sets[1])
    with pytest.raises(ValueError, match=r"sets \[2\] of the batch have no points"):
        encoder(sets[0], sets[1] & (torch.arange(8) != 2)[:, None])


def test_transport_follows_the_optimal_assignment_and_repeats_few_points():
    random = torch.Generator().manual_seed(0)
    template = 60 * torch.randn(10, 3, generator=random)
    moved = template + 2 * torch.randn(10, 3, generator=random)
    order = torch.randperm(10, generator=random)
    found = transport_embedding(moved[order][None], torch.ones(1, 10).bool(), template, blur_mm=2.0)
    torch.testing.assert_close(found[0], moved, rtol=0, atol=0.1)
    one = transport_embedding(moved[:1][None], torch.ones(1, 1).bool(), template)
    torch.testing.assert_close(one[0], moved[:1].expand(10, 3), rtol=0, atol=1e-3)
