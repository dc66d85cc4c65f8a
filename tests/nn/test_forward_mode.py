"""Layers with an efficient forward mode: values, gradients and derivatives against torch and central differences."""

import copy

import pytest
import torch
from torch import nn

from neuromf.meanflow import run
from neuromf.nn import forward_mode

LAYERS = {
    "convolution": lambda: nn.Conv3d(4, 6, 3, padding=1),
    "strided convolution": lambda: nn.Conv3d(4, 6, 3, stride=2, padding=1),
    "convolution without bias": lambda: nn.Conv3d(4, 6, 1, bias=False),
    "group norm": lambda: nn.GroupNorm(2, 4, eps=1e-3),
}


@pytest.fixture(params=LAYERS)
def pair(request):
    """torch's layer and its replacement, float64, with random parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = LAYERS[request.param]().double()
        for p in theirs.parameters():
            nn.init.normal_(p)
        return theirs, forward_mode.lean_forward_mode(nn.Sequential(copy.deepcopy(theirs)))


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(layer, x, g):
    x = x.clone().requires_grad_()
    y = layer(x)
    return y, torch.autograd.grad((y * g(y)).sum(), [x, *layer.parameters()])


def test_values_and_gradients_equal_those_of_torch(pair):
    theirs, ours = pair
    assert type(ours[0]) is not type(theirs)
    x = normal(1, 3, 4, 5, 6, 4)
    expected, actual = (gradients(layer, x, lambda y: normal(2, *y.shape)) for layer in pair)
    torch.testing.assert_close(actual, expected)


def test_the_derivative_equals_that_of_torch(pair):
    x, dx = normal(1, 3, 4, 5, 6, 4), normal(3, 3, 4, 5, 6, 4)
    expected, actual = (torch.func.jvp(layer, (x,), (dx,)) for layer in pair)
    torch.testing.assert_close(actual, expected)


def test_the_derivative_equals_central_differences(pair):
    _, ours = pair
    x, dx, step = normal(1, 3, 4, 5, 6, 4), normal(3, 3, 4, 5, 6, 4), 1e-6
    actual = torch.func.jvp(ours, (x,), (dx,))[1]
    torch.testing.assert_close(actual, (ours(x + step * dx) - ours(x - step * dx)) / (2 * step), rtol=1e-6, atol=1e-8)


def test_gradients_pass_through_the_value_of_a_jvp(pair):
    theirs, ours = pair
    x, dx = normal(1, 3, 4, 5, 6, 4), normal(3, 3, 4, 5, 6, 4)
    expected = torch.autograd.grad(theirs(x).square().sum(), list(theirs.parameters()))
    actual = torch.autograd.grad(torch.func.jvp(ours, (x,), (dx,))[0].square().sum(), list(ours.parameters()))
    torch.testing.assert_close(actual, expected)


def test_under_autocast_they_are_torchs_own_layers():
    theirs = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.GroupNorm(2, 4))
    ours, x = forward_mode.lean_forward_mode(copy.deepcopy(theirs)), normal(1, 2, 4, 8, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_the_unet_has_no_other_convolution_or_normalisation():
    net = {"widths": [16, 32], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
    kinds = {type(module) for module in run.build_network(net, "u").modules()}
    assert {forward_mode.Conv3d, forward_mode.GroupNorm} <= kinds and not {nn.Conv3d, nn.GroupNorm} & kinds


def test_a_convolution_with_groups_is_rejected():
    with pytest.raises(
        ValueError, match="convolutions must have groups=1, dilation=1 and zero padding; got Conv3d.*groups=2"
    ):
        forward_mode.lean_forward_mode(nn.Conv3d(4, 4, 3, groups=2))
