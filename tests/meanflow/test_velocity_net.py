"""Networks as functions of (z, t, r): shapes, derivatives, gradients, scale of time, EMA."""

import copy

import pytest
import torch
from torch import nn

from neuromf.core import seeds
from neuromf.meanflow import flow
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn.ema import EMA
from neuromf.nn.embeddings import N_POSITIONS, Conditioning, TimeEmbedding, positions
from neuromf.nn.mlp import MLP
from neuromf.nn.unet import UNet

TINY = {"widths": (8, 16), "res_blocks": 1, "attention": (False, True), "head_width": 8, "norm_groups": 4}


def normal(*shape, key="nets"):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def seeded(make):
    """A float64 network with deterministic weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def last_layer(net):
    return net.out[2].conv if isinstance(net, UNet) else net.outlet


def awake(net):
    """Randomise all layers that are zero at initialisation, which would make the derivatives zero."""
    for name, weight in net.named_parameters():
        if weight.ndim > 1 and not weight.any():
            weight.data = normal(*weight.shape, key=name) / weight[0].numel() ** 0.5
    return net


def unet(**changes):
    return seeded(lambda: UNet(2, **{**TINY, **changes}))


def mlp():
    return seeded(lambda: MLP(5, width=16, depth=2))


NETS = {
    "unet": (unet, (3, 2, 4, 4, 4)),
    "unet on patches": (lambda: unet(patch=2), (3, 2, 4, 4, 8)),
    "unet with position maps": (lambda: unet(patch=2, maps=(4, 4, 8)), (3, 2, 4, 4, 8)),
    "mlp": (mlp, (3, 5)),
}


@pytest.fixture(params=NETS)
def net_and_z(request):
    make, shape = NETS[request.param]
    return awake(make()), normal(*shape, key="z")


def times():
    return torch.tensor([0.3, 0.7, 1.0]).double(), torch.tensor([0.3, 0.2, 0.0]).double()


def jvp_and_differences(u, z, step=1e-5):
    """The derivative of u(z, t, r) along (v, 1, 0), by forward mode and by central differences."""
    (t, r), v = times(), normal(*z.shape, key="v")
    with torch.no_grad():
        exact = flow.total_derivative(u, z, t, r, v)[1]
        return exact, (u(z + step * v, t + step, r) - u(z - step * v, t - step, r)) / (2 * step)


def message(error):
    return str(error.value)


def test_P3_T1_the_unet_takes_latents_and_two_times():
    net, z, (t, r) = awake(unet()), normal(3, 2, 4, 4, 4), times()
    with torch.no_grad():
        out, other_t, other_r = net(z, t, r), net(z, t - 0.1, r - 0.1), net(z, t, r + 0.1)
    assert out.shape == z.shape and out.dtype == torch.float64
    assert not torch.allclose(out, other_t) and not torch.allclose(out, other_r)


@pytest.mark.parametrize(
    "changes, sizes",
    [
        ({}, [(2, 2, 2), (4, 6, 2)]),
        ({"patch": 2}, [(4, 4, 4), (8, 4, 12)]),
        ({"widths": (8, 8, 8), "attention": (False, False, True)}, [(4, 8, 4)]),
        ({"res_blocks": 2}, [(2, 4, 2)]),
    ],
)
def test_P3_T2_output_has_the_shape_of_the_latent(changes, sizes):
    net = unet(**changes)
    assert net.stride == net.patch * 2 ** (len(changes.get("widths", (8, 16))) - 1)
    for size in sizes:
        z = normal(1, 2, *size)
        assert net(z, z.new_ones(1), z.new_zeros(1)).shape == z.shape


def test_P3_T2_a_size_that_is_no_multiple_of_the_stride_is_rejected():
    with pytest.raises(ValueError) as error:
        unet(patch=2)(normal(1, 2, 8, 6, 8), *torch.ones(2, 1).double())
    assert message(error) == "latent sizes must be multiples of 4; got (8, 6, 8)"


def test_space_to_depth_is_invertible():
    """With the identity as network, the output is the latent."""
    net, z = unet(patch=2), normal(1, 2, 4, 4, 4)
    patches = []
    net.conv_in.register_forward_pre_hook(lambda _, inputs: patches.append(inputs[0]))
    net.out = nn.Module()
    net.out.forward = lambda _: patches[0][:, :16]  # without the position channels
    torch.testing.assert_close(net(z, *torch.ones(2, 1).double()), z, rtol=0, atol=0)
    assert patches[0].shape == (1, 16 + N_POSITIONS, 2, 2, 2)


def test_an_untrained_network_has_a_constant_output_and_a_zero_last_layer():
    for make, shape in NETS.values():
        net = make()
        assert not last_layer(net).weight.any()
        first, other = (net(normal(*shape, key=key), *times()) for key in ("one", "other"))
        torch.testing.assert_close(first, other)


def test_P2_T3_P3_T3_jvp_equals_central_differences(net_and_z):
    net, z = net_and_z
    exact, differences = jvp_and_differences(net, z)
    assert exact.shape == z.shape and exact.abs().mean() > 1e-2
    torch.testing.assert_close(exact, differences, rtol=1e-6, atol=1e-8)


def test_P2_T3_P3_T3_jvp_passes_through_the_division_of_data_prediction(net_and_z):
    net, z = net_and_z
    exact, differences = jvp_and_differences(MeanVelocityNet(net, "x"), z)
    torch.testing.assert_close(exact, differences, rtol=1e-6, atol=1e-8)


def test_P2_T3_P3_T3_the_derivatives_in_z_t_and_r_are_not_zero(net_and_z):
    net, z = net_and_z
    inputs = (z, *times())
    for k in range(3):
        tangents = [torch.ones_like(x) if i == k else torch.zeros_like(x) for i, x in enumerate(inputs)]
        assert torch.func.jvp(net, inputs, tuple(tangents))[1].detach().abs().mean() > 1e-3


def test_P3_T5_gradients_reach_every_trainable_parameter(net_and_z):
    net, z = net_and_z
    (t, r), v = times(), normal(*z.shape, key="v")
    V = flow.implied_velocity(*flow.single_pass(net, z, t, r, v), t, r)
    ((V - v) ** 2).sum().backward()
    idle = [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_flow_matching_does_not_train_the_interval_embedding():
    """An untrained u(z, t, r) does not depend on r, and pairs with r = t do not change that."""
    net, z = awake(unet()), normal(3, 2, 4, 4, 4, key="z")
    (t, r), v = times(), normal(*z.shape, key="v")
    interval = net.time_embed.embeddings[1]
    interval.layers[-1].weight.data.zero_()
    ((net(z, t, t) - v) ** 2).sum().backward()
    assert not any(p.grad.any() for p in interval.parameters()) and torch.equal(net(z, t, r), net(z, t, t))


def test_raw_times_have_a_moderate_derivative():
    """The relative derivative of the untrained embedding is about 1 for t, and hundreds of times larger for 1000 t."""
    embedding, t = seeded(lambda: TimeEmbedding(32)), torch.linspace(0, 1, 201).double()
    rate = lambda f: torch.func.jvp(f, (t,), (torch.ones_like(t),))[1].norm(dim=1) / embedding(t).norm(dim=1)  # noqa: E731
    raw, scaled = rate(embedding), rate(lambda t: embedding(1000 * t))
    assert raw.max() < 2
    assert scaled.mean() > 100 * raw.mean()


def test_the_networks_embed_raw_times(net_and_z):
    net, z = net_and_z
    (t, r), inputs_seen = times(), []
    for embedding in net.time_embed.embeddings:
        embedding.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0]))
    net(z, t, r)
    torch.testing.assert_close(inputs_seen, [t, t - r], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "scalars"), [("t-h", ("t", "h")), ("t-r", ("t", "r")), ("h", ("h",))])
def test_a_conditioning_embeds_its_scalars(name, scalars):
    (t, r), inputs_seen = times(), []
    conditioning = seeded(lambda: Conditioning(16, name))
    for embedding in conditioning.embeddings:
        embedding.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0]))
    out = conditioning(t, r)
    values = {"t": t, "h": t - r, "r": r}
    torch.testing.assert_close(inputs_seen, [values[each] for each in scalars], rtol=0, atol=0)
    parts = zip(conditioning.embeddings, scalars, strict=True)
    torch.testing.assert_close(out, sum(embedding(values[each]) for embedding, each in parts))


def test_an_unknown_conditioning_is_rejected():
    with pytest.raises(ValueError) as error:
        Conditioning(16, "r")
    assert message(error) == "conditioning must be one of t-h, t-r, h; got 'r'"


def test_x_prediction_is_converted_to_the_average_velocity(net_and_z):
    """u = (z - x) / t, so that a one-step sample is the predicted x."""
    net, z = net_and_z
    t, r = times()
    with torch.no_grad():
        u, out = MeanVelocityNet(net, "x")(z, t, r), net(z, t, r)
        torch.testing.assert_close(flow.data_from_velocity(u, z, t), out)
        torch.testing.assert_close(MeanVelocityNet(net, "u")(z, t, r), out, rtol=0, atol=0)
        one = torch.ones_like(t)
        torch.testing.assert_close(flow.sample(MeanVelocityNet(net, "x"), z), net(z, one, 0 * one))


def test_x_prediction_is_finite_at_time_zero(net_and_z):
    net, z = net_and_z
    zero = torch.zeros(len(z)).double()
    assert MeanVelocityNet(net, "x")(z, zero, zero).isfinite().all()


def test_an_unknown_prediction_is_rejected():
    with pytest.raises(ValueError) as error:
        MeanVelocityNet(mlp(), "eps")
    assert message(error) == "prediction must be one of u, x; got 'eps'"


class Weight(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(value), dtype=torch.float64))


def averaged(values, ema, batch):
    """The average after one update for each value."""
    for step, value in enumerate(values):
        ema.update(Weight(value), batch, step * batch)
    return ema.net.w.item()


def test_P3_T8_the_average_equals_its_closed_form():
    """Constant decay d: w_n = d^n w_0 + (1 - d) sum_k d^(n - k) w_k."""
    values, batch = [3.0, -1.0, 2.0, 5.0], 8
    ema = EMA(Weight(1.0), halflife_images=16, rampup=float("inf"))
    d = 0.5 ** (batch / 16)
    expected = d**4 * 1.0 + (1 - d) * sum(d ** (4 - k) * w for k, w in enumerate(values, start=1))
    assert averaged(values, ema, batch) == pytest.approx(expected, rel=1e-12)


def test_P3_T8_an_influence_halves_after_the_half_life_for_any_batch():
    for batch in (1, 4, 32):
        ema = EMA(Weight(1.0), halflife_images=64, rampup=float("inf"))
        assert averaged([0.0] * (64 // batch), ema, batch) == pytest.approx(0.5, rel=1e-12)


def test_P3_T8_the_rampup_forgets_the_initial_weights():
    """With a half-life of 0.1 of the images seen, their influence is prod_k 2^(-10 / k) over the steps k."""
    ema, n = EMA(Weight(1.0), halflife_images=1e9), 20
    expected = 0.5 ** sum(10 / k for k in range(1, n + 1))
    assert averaged([0.0] * n, ema, 8) == pytest.approx(expected, rel=1e-9)
    assert ema.decay(8, 10**12) == pytest.approx(0.5 ** (8 / 1e9))


def test_P3_T8_the_average_is_frozen_and_changes_only_in_updates():
    net = Weight(1.0)
    ema = EMA(net, halflife_images=10)
    net.w.data.fill_(7.0)
    assert ema.net.w.item() == 1.0 and not ema.net.w.requires_grad and not ema.net.training
    assert net.w.requires_grad


def test_averages_share_the_prior_of_their_network_on_any_device():
    grid = (2, 4, 4, 4)
    prior = GaussianPrior(normal(*grid), torch.eye(1, 128), torch.ones(1), torch.ones(grid))
    nets = nn.ModuleList([u := MeanVelocityNet(unet(), "x", prior), EMA(u, halflife_images=10)])
    assert nets[1].net.prior is prior and nets[1].net.net is not u.net
    nets.to("meta")
    ours, theirs = ({name: b for name, b in net.named_buffers()} for net in (u, nets[1].net))
    assert all(theirs[name] is b for name, b in ours.items() if name.startswith("prior.")) and prior.mean.is_meta
    assert not {id(p) for p in u.parameters()} & {id(p) for p in nets[1].net.parameters()}


def test_the_average_of_a_constant_network_is_that_network():
    net = awake(mlp())
    ema = EMA(copy.deepcopy(net), halflife_images=10)
    for step in range(3):
        ema.update(net, 4, 4 * step)
    torch.testing.assert_close(ema.net.state_dict(), net.state_dict())


def test_positions_are_unique_on_a_grid_of_any_size():
    for shape in ((4, 4, 4), (2, 5, 3)):
        grid = positions(shape)
        assert grid.shape == (N_POSITIONS, *shape)
        torch.testing.assert_close(grid[0, :, 0, 0], (2 * torch.arange(shape[0]) + 1) / shape[0] - 1)
        torch.testing.assert_close(grid[:3], -grid[:3].flip(1, 2, 3))  # antisymmetric about the centre
        assert len(grid.flatten(1).T.unique(dim=0)) == shape[0] * shape[1] * shape[2]
