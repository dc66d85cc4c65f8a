"""Layers with an efficient forward mode: values, gradients and derivatives against torch and central differences."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from neuromf.meanflow import flow, run
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


NET = {"widths": [16, 32], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}


def test_in_bf16_the_values_and_tangents_of_a_unet_have_one_type_and_small_errors():
    u = run.build_network(NET, "u")
    nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    z, v, t = normal(1, 4, 4, 8, 8, 8).float(), normal(2, 4, 4, 8, 8, 8).float(), torch.tensor([0.1, 0.4, 0.7, 1.0])
    arguments, types = (u, z, t, 0.5 * t, v), set()
    for module in u.modules():
        if isinstance(module, forward_mode.Conv3d | forward_mode.GroupNorm | nn.Linear):
            module.register_forward_hook(lambda m, _, out: types.add((type(m), *dtypes(out))))
    exact, half = (flow.total_derivative(*arguments, precision=p) for p in ("float32", "bf16"))
    in_bf16 = {row for row in types if torch.bfloat16 in row}
    assert in_bf16 == {(k, torch.bfloat16, torch.bfloat16) for k in (forward_mode.Conv3d, nn.Linear)}
    assert (forward_mode.GroupNorm, torch.float32, torch.float32) in types
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.dtype == torch.float32 and 1e-4 < relative(ours, theirs) < 0.02


def dtypes(out):
    """Types of the value and of the tangent; of the value twice if it has no tangent."""
    value, tangent = torch.autograd.forward_ad.unpack_dual(out)
    return value.dtype, value.dtype if tangent is None else tangent.dtype


def relative(actual, expected):
    return float((actual - expected).detach().norm() / expected.detach().norm())


def test_the_gradient_of_a_single_pass_in_bf16_is_close_to_that_in_float32():
    u = run.build_network(NET, "u")
    nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    z, t = normal(1, 2, 4, 8, 8, 8).float(), torch.tensor([0.3, 0.8])
    gradients = []
    for precision in ("float32", "bf16"):
        out, du_dt = flow.single_pass(u, z, t, 0.5 * t, z, precision)
        u.zero_grad()
        (out + 0.5 * du_dt.detach()).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in u.parameters() if p.grad is not None]))
    assert gradients[1].isfinite().all() and relative(*gradients) < 0.05


def test_the_unet_has_no_other_convolution_or_normalisation():
    kinds = {type(module) for module in run.build_network(NET, "u").modules()}
    assert {forward_mode.Conv3d, forward_mode.GroupNorm} <= kinds and not {nn.Conv3d, nn.GroupNorm} & kinds


def test_a_convolution_with_groups_is_rejected():
    with pytest.raises(
        ValueError, match="convolutions must have groups=1, dilation=1 and zero padding; got Conv3d.*groups=2"
    ):
        forward_mode.lean_forward_mode(nn.Conv3d(4, 4, 3, groups=2))


def test_layer_norm_has_the_value_gradient_and_tangent_of_torch():
    random = torch.Generator().manual_seed(0)
    own, torch_s = forward_mode.LayerNorm(6).double(), torch.nn.LayerNorm(6).double()
    with torch.no_grad():
        own.weight.copy_(torch.rand(6, generator=random))
        own.bias.copy_(torch.rand(6, generator=random))
    torch_s.load_state_dict(own.state_dict())
    x, v = torch.randn(2, 5, 6, generator=random, dtype=torch.float64)
    with forward_ad.dual_level():
        found, expected = (forward_ad.unpack_dual(net(forward_ad.make_dual(x, v))) for net in (own, torch_s))
    torch.testing.assert_close(tuple(found), tuple(expected))
    torch.testing.assert_close(own(x), torch_s(x))
    gradients = [torch.autograd.grad(out.primal.square().sum(), net.weight)[0]
                 for out, net in ((found, own), (expected, torch_s))]  # fmt: skip
    torch.testing.assert_close(*gradients)
