"""Encoder, decoders, options and factory of the growth system."""

import itertools

import pytest
import torch
from torch import nn

from neuromf.growth.dip_module import DIPVAELitModule
from neuromf.growth.factory import build_module
from neuromf.growth.models import VAESBD, BaselineVAE
from neuromf.growth.module import VAELitModule
from neuromf.growth.tc_module import TCLitModule
from neuromf.nn.decoders import BroadcastDecoder, ConvDecoder
from neuromf.nn.resnet3d import SpatialMoments, group_norm
from neuromf.vae.elbo import compute_elbo

PAPER = (128, 128, 128)
NORMS = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm | nn.LayerNorm


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**options):
    torch.manual_seed(0)
    return BaselineVAE(8, (8, 8, 8), **{"base_filters": 8, **options})


@pytest.mark.parametrize("kind", [BaselineVAE, VAESBD])
def test_G14_all_normalisation_is_group_normalisation(kind):
    with torch.device("meta"):
        net = kind(128, PAPER)
    assert not [module for module in net.modules() if isinstance(module, NORMS)]
    groups = [module.num_groups for module in net.encoder.modules() if isinstance(module, nn.GroupNorm)]
    assert set(groups) == {8} and len(groups) == 20


def test_G14_groups_have_four_channels_at_least():
    assert [group_norm(n).num_groups for n in (4, 8, 16, 32, 256)] == [1, 2, 4, 8, 8]


def test_G14_moments_are_size_and_position_of_every_channel():
    pool, h = SpatialMoments(), torch.zeros(2, 1, 9, 9, 9)
    h[0, 0, 1:4, 2:5, 6:9] = 1  # centre (2, 3, 7)
    h[1, 0, 4, 4, 4] = 27  # as much at one point
    size, *centre = pool(h).T
    torch.testing.assert_close(size[0], size[1])
    torch.testing.assert_close(torch.stack(centre)[:, 0], torch.tensor([-0.5, -0.25, 0.75]), atol=0.03, rtol=0)
    torch.testing.assert_close(
        pool(h.roll(1, 2))[0, 1:] - pool(h)[0, 1:], torch.tensor([0.25, 0, 0]), atol=0.01, rtol=0
    )
    twice = pool(2 * h)
    torch.testing.assert_close(twice[:, 0] - size, torch.full((2,), 2.0).log(), atol=0.02, rtol=0)
    assert pool(torch.zeros(1, 3, 4, 4, 4)).isfinite().all()


def test_G14_an_encoder_with_moments_needs_no_fixed_number_of_positions():
    net = small(encoder_pool="moments", encoder_depth=1)
    mu, logvar = net.encode(torch.randn(2, 4, 8, 8, 8))
    assert mu.shape == logvar.shape == (2, 8) and net.encoder.mu.in_features == 4 * 8
    sides = [
        len(BaselineVAE(8, (32,) * 3, base_filters=4, encoder_pool=p).encoder.blocks) for p in ("flatten", "moments")
    ]
    assert sides == [6, 4]  # two blocks per stage: last maps of 4^3 and 8^3
    mu.sum().backward()
    assert net.encoder.stem[0].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="must be flatten, gap or moments; got 'max'"):
        small(encoder_pool="max")


def test_G14_the_full_network_has_the_sizes_of_the_specification():
    with torch.device("meta"):
        net, pooled = BaselineVAE(128, PAPER), BaselineVAE(128, PAPER, encoder_pool="gap", upsample="resize_conv")
        x = torch.empty(2, 4, *PAPER)
        mu, logvar = net.encode(x)
        h = net.encoder.stem(x)
        sides = {h.shape[-1]}
        for block in net.encoder.blocks:
            h = block(h)
            sides.add(h.shape[-1])
    assert mu.shape == logvar.shape == (2, 128)
    assert sides == {64, 32, 16, 8} and h.shape[1] == 256
    heads = net.encoder.mu.weight.numel() + net.encoder.logvar.weight.numel()
    assert heads == 2 * 131_072 * 128
    assert sum(p.numel() for p in pooled.parameters()) / 1e6 == pytest.approx(13.4, abs=0.05)


@pytest.mark.parametrize("upsample, roi", [("deconv", (128, 128, 128)), ("resize_conv", (24, 32, 48))])
def test_G15_decoders_give_the_input_shape_without_output_non_linearity(upsample, roi):
    with torch.device("meta"):
        decoder = ConvDecoder(4, 16, roi, upsample=upsample)
        assert decoder(torch.empty(2, 16)).shape == (2, 4, *roi)
    assert isinstance([*decoder.modules()][-1], nn.Conv3d)
    assert not [m for m in decoder.modules() if isinstance(m, nn.Tanh | nn.Sigmoid)]
    if roi == PAPER:
        assert decoder.map_shape == (256, 4, 4, 4)
        assert [block[0].out_channels for block in decoder.blocks] == [256, 128, 64, 32, 32]


def test_G15_the_output_is_unbounded():
    for decoder in (ConvDecoder(4, 2, (8, 8, 8), width=4), BroadcastDecoder(4, 2, (8, 8, 8), width=4)):
        before = decoder(torch.ones(1, 2))
        with torch.no_grad():
            decoder.last.bias += 50
        torch.testing.assert_close(decoder(torch.ones(1, 2)), before + 50)


def test_G16_the_broadcast_decoder_sees_z_and_coordinates_ordered_dhw():
    decoder = BroadcastDecoder(4, 128, PAPER)
    z = torch.randn(2, 128)
    tiled = decoder.broadcast(z)
    assert tiled.shape == (2, 131, 8, 8, 8) and "coordinates" in decoder.state_dict()
    assert torch.equal(tiled[:, :128, 3, 5, 1], z)
    for channel in range(3):
        profile = tiled[0, 128 + channel]
        others = [axis for axis in range(3) if axis != channel]
        assert torch.equal(profile.amax(others), torch.linspace(-1, 1, 8)) and torch.equal(
            profile.amin(others), profile.amax(others)
        )
    assert [block[1].out_channels for block in decoder.blocks] == [128, 64, 32, 16]
    with torch.device("meta"):
        assert BroadcastDecoder(4, 128, PAPER)(torch.empty(1, 128)).shape == (1, 4, *PAPER)


EVERY = [
    *itertools.product(("baseline", "dipvae_sbd", "tc"), (False, True), ("deconv", "resize_conv"), ("flatten", "gap"))
]


@pytest.mark.parametrize("variant, use_sbd, upsample, pool", EVERY)
def test_G17_every_combination_builds_and_has_gradients(variant, use_sbd, upsample, pool):
    model = {
        "z_dim": 4,
        "base_filters": 4,
        "variant": variant,
        "use_sbd": use_sbd,
        "upsample": upsample,
        "encoder_pool": pool,
    }
    module = build_module(roi_size=(12, 12, 12), model=model, loss={}, train={"kl_schedule": "constant"}, n_train=9)
    expected = {"baseline": VAELitModule, "dipvae_sbd": DIPVAELitModule, "tc": TCLitModule}
    assert type(module) is expected[variant] and type(module.model) is (VAESBD if use_sbd else BaselineVAE)
    module.weights |= {name: 1.0 for name in module.weights if name.startswith("lambda")}
    batch = {"image": torch.randn(4, 4, 12, 12, 12)}
    module.objective(batch, module.model.forward_full(batch["image"]), 1.0)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_G17_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="one of baseline, dipvae_sbd, tc, semi; got 'vqvae'"):
        build_module(roi_size=(8,) * 3, model={"z_dim": 2, "variant": "vqvae"}, loss={}, train={}, n_train=2)


def test_G18_the_clamp_holds_log_variances_in_bounds_and_is_off_by_default():
    x = 1e4 * torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    free, clamped = small(), small(logvar_min=-6.0)
    for net in (free, clamped):
        nn.init.normal_(net.encoder.logvar.weight, std=100)
    clamped.load_state_dict(free.state_dict())
    assert free.encode(x)[1].abs().max() > 6
    assert torch.equal(clamped.encode(x)[1], free.encode(x)[1].clamp(-6, 6))


def test_G19_evaluation_decodes_the_mean_and_training_a_sample():
    net, x = small(), torch.randn(2, 4, 8, 8, 8)
    assert torch.equal(net.eval().forward_full(x).z, net.encode(x)[0])
    eps = torch.randn(2, 8)
    out = net.train().forward_full(x, eps)
    torch.testing.assert_close(out.z, out.mu + eps * (out.logvar / 2).exp())


def test_G33_spectral_norm_bounds_convolutions_and_leaves_the_heads():
    net = small(spectral_norm=True).train()
    x = torch.randn(2, 4, 8, 8, 8)
    for _ in range(60):  # power iterations
        net(x)
    for module in net.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            dim = 1 if isinstance(module, nn.ConvTranspose3d) else 0
            assert torch.linalg.matrix_norm(module.weight.transpose(0, dim).flatten(1), 2) <= 1.05
    assert not hasattr(net.encoder.mu, "parametrizations") and not hasattr(net.encoder.logvar, "parametrizations")


def test_G35_gradient_checkpointing_changes_neither_output_nor_gradient():
    plain, saving = small().double(), small(gradient_checkpointing=True).double()
    x, eps = torch.randn(2, 4, 8, 8, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    outputs = [net.train().forward_full(x, eps).x_hat for net in (plain, saving)]
    torch.testing.assert_close(*outputs)
    for one in outputs:
        one.square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def shape_test(roi, width, z_dim, **options):
    net = BaselineVAE(z_dim, roi, base_filters=width, **options)
    x = torch.randn(2, 4, *roi)
    x_hat, mu, logvar = net(x)
    assert mu.shape == logvar.shape == (2, z_dim) and x_hat.shape == x.shape
    terms = compute_elbo(x, x_hat, mu, logvar, 1.0)
    assert terms.keys() == {"loss", "recon", "kl"}
    assert all(value.isfinite() and value >= 0 for value in terms.values())
    return net, terms


def test_G88_shapes_and_loss_at_32():
    shape_test((32, 32, 32), 8, 128)


@pytest.mark.slow
@pytest.mark.parametrize("saving, seconds", [(False, 24), (True, 30)])
def test_G88_shapes_loss_time_and_memory_of_a_step_at_128(saving, seconds, record_property):
    import time

    from neuromf.core.hardware import peak_mb, reset_peak

    reset_peak("cpu")
    started = time.monotonic()
    _, terms = shape_test(PAPER, 32, 128, gradient_checkpointing=saving)
    terms["loss"].backward()
    took = time.monotonic() - started
    record_property("seconds", took)
    record_property("peak_mb", peak_mb("cpu"))
    print(f"checkpointing {saving}: {took:.1f} s, {peak_mb('cpu'):.0f} MB")
    assert peak_mb("cpu") < (6000 if saving else 9000)
