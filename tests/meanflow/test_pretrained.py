"""Published rectified-flow weights: the converted network equals the published one up to sign and scale."""

import copy
import hashlib

import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.schedulers import RFlowScheduler
from torch import nn

from neuromf.core import seeds
from neuromf.meanflow import flow, pretrained
from neuromf.nn.embeddings import N_POSITIONS
from neuromf.nn.unet import UNet

SPACING_MM, MODALITY = (0.94, 1.0, 1.36), 3
SETTINGS = {"widths": (32, 64), "res_blocks": 1, "attention": (False, True), "norm_groups": 32}
PROJECTION = "down_blocks.0.resnets.0.time_emb_proj.weight"


def normal(*shape, key="rectified"):
    return torch.randn(shape, generator=seeds.generator("test", key), dtype=torch.float64)


def published_net(*, spacing=True, kinds=5, **others):
    """A small network of the published architecture without zero weights; float32 values, float64 computation."""
    net = DiffusionModelUNetMaisi(
        spatial_dims=3,
        in_channels=4,
        out_channels=4,
        num_channels=(32, 64),
        num_res_blocks=1,
        attention_levels=(False, True),
        num_head_channels=(0, 32),
        resblock_updown=True,
        include_fc=True,
        include_spacing_input=spacing,
        num_class_embeds=kinds,
        **others,
    )
    for name, weight in net.named_parameters():
        draw = normal(*weight.shape, key=name) / weight[0].numel() ** 0.5
        weight.data = 1 + draw / 4 if name.endswith(("norm1.weight", "norm2.weight")) else draw
    return net.float().double().eval()


def ours(**changed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(4, **{**SETTINGS, **changed}).double()


def stored(net, path, edit=lambda state: state):
    torch.save(edit({name: weight.float() for name, weight in net.state_dict().items()}), path)
    return path


class PublishedTime(nn.Module):
    """The published time network at timestep 1000 t, in place of ours."""

    def __init__(self, net, modality):
        super().__init__()
        self.net, self.modality = net, modality

    def forward(self, t, r):
        kinds = None if self.modality is None else torch.full(t.shape, self.modality)
        return self.net._get_time_and_class_embedding(t, 1000 * t, kinds)


def conditions(n, spacing_mm=SPACING_MM, modality=MODALITY):
    """Spacing and modality inputs of the published network for n samples."""
    choices = {}
    if spacing_mm is not None:
        choices["spacing_tensor"] = 100 * torch.tensor([spacing_mm] * n, dtype=torch.float64)
    if modality is not None:
        choices["class_labels"] = torch.full((n,), modality)
    return choices


@pytest.fixture(scope="module")
def published():
    return published_net()


@pytest.fixture
def path(published, tmp_path):
    return stored(published, tmp_path / "rflow.pt")


@pytest.fixture(scope="module")
def loaded(published, tmp_path_factory):
    """Our network with the published weights and the published time embedding."""
    unet = ours()
    path = stored(published, tmp_path_factory.mktemp("weights") / "rflow.pt")
    pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(published, MODALITY)
    return unet


def error_message(unet, path, error=ValueError, **changed):
    """Message of the error; the network must be unchanged."""
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    with pytest.raises(error) as caught:
        pretrained.load_rectified(unet, path, **{"modality": MODALITY, "spacing_mm": SPACING_MM, **changed})
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    return str(caught.value)


@torch.no_grad()
def test_the_converted_network_returns_the_negative_published_output(published, loaded):
    z, t = normal(3, 4, 8, 8, 8), torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)
    expected = -published(z, 1000 * t, **conditions(3))
    assert expected.std() > 0.1
    torch.testing.assert_close(loaded(z, t, t), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_float32_errors_are_those_of_the_published_network(published, path):
    unet, single = ours().float(), copy.deepcopy(published).float()
    pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(single, MODALITY)
    z, t, choices = normal(2, 4, 8, 8, 8).float(), torch.tensor([0.25, 0.875]), conditions(2)
    exact = -published(z.double(), 1000 * t.double(), **choices)
    choices["spacing_tensor"] = choices["spacing_tensor"].float()
    errors = [(v - exact).norm() / exact.norm() for v in (unet(z, t, t), -single(z, 1000 * t, **choices))]
    assert errors[0] < 2 * errors[1] < 1e-5


@pytest.mark.parametrize("other", [{"spacing_mm": (1.0, 1.0, 1.0)}, {"modality": 0}], ids=str)
@torch.no_grad()
def test_spacing_and_modality_are_those_requested(published, loaded, other):
    """At another spacing or modality the published output differs."""
    z, t = normal(1, 4, 8, 8, 8), torch.tensor([0.5], dtype=torch.float64)
    assert (loaded(z, t, t) + published(z, 1000 * t, **conditions(1, **other))).abs().max() > 1e-2


@torch.no_grad()
def test_the_published_sampler_and_ours_take_the_same_steps(published, loaded):
    z, times = normal(1, 4, 8, 8, 8), [1.0, 0.6, 0.25, 0.0]
    x, scheduler = z, RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    scheduler.set_timesteps(3)
    for t, r in zip(times[:-1], times[1:], strict=True):
        velocity = published(x, torch.tensor([1000 * t], dtype=torch.float64), **conditions(1))
        x = scheduler.step(velocity, 1000 * t, x, 1000 * r)[0]
    torch.testing.assert_close(flow.euler(loaded, z, times), x, rtol=0, atol=1e-9)


def test_the_published_path_is_ours():
    x, eps, t = normal(2, 4, 2, 2, 2, key="x"), normal(2, 4, 2, 2, 2, key="eps"), torch.tensor([0.25, 1.0])
    noisy = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False).add_noise(x, eps, 1000 * t)
    torch.testing.assert_close(flow.interpolate(x, eps, t)[0], noisy)


@pytest.mark.parametrize(("spacing_mm", "modality"), [(None, None), (SPACING_MM, None), (None, MODALITY)])
@torch.no_grad()
def test_networks_without_spacing_or_modality_input_load_too(tmp_path, spacing_mm, modality):
    net = published_net(spacing=spacing_mm is not None, kinds=None if modality is None else 5)
    path, unet = stored(net, tmp_path / "rflow.pt"), ours()
    pretrained.load_rectified(unet, path, modality=modality, spacing_mm=spacing_mm)
    unet.time_embed = PublishedTime(net, modality)
    z, t = normal(2, 4, 8, 8, 8), torch.tensor([0.1, 0.8], dtype=torch.float64)
    expected = -net(z, 1000 * t, **conditions(2, spacing_mm, modality))
    torch.testing.assert_close(unet(z, t, t), expected, rtol=0, atol=1e-10)


def test_position_channels_have_zero_weights(loaded):
    weight = loaded.conv_in.conv.weight
    assert weight.shape[1] == 4 + N_POSITIONS
    assert torch.equal(weight[:, 4:], torch.zeros_like(weight[:, 4:])) and (weight[:, :4] != 0).all()


@torch.no_grad()
def test_a_velocity_head_starts_with_the_weights_of_the_first_head(published, path):
    unet = ours(out_channels=8)
    pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(published, MODALITY)
    z, t = normal(1, 4, 8, 8, 8), torch.tensor([0.5], dtype=torch.float64)
    expected = -published(z, 1000 * t, **conditions(1))
    torch.testing.assert_close(unet(z, t, t), torch.cat([expected, expected], dim=1), rtol=0, atol=1e-10)


def wrapped(scale_factor):
    """Edit of a state dict into a checkpoint as published."""
    return lambda state: {"epoch": 7, "scale_factor": torch.tensor(scale_factor), "unet_state_dict": state}


@torch.no_grad()
def test_the_scale_factor_of_a_checkpoint_is_folded_into_the_first_and_last_convolution(published, tmp_path):
    """The converted network on unscaled latents z is -f(s z) / s for the published f on latents s z."""
    path, unet, s = stored(published, tmp_path / "rflow.pt", wrapped(0.96240234375)), ours(), 0.96240234375
    pretrained.load_rectified(unet, str(path), modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(published, MODALITY)
    z, t = normal(3, 4, 8, 8, 8), torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)
    expected = -published(s * z, 1000 * t, **conditions(3)) / s
    assert (expected + published(z, 1000 * t, **conditions(3))).abs().max() > 1e-3
    torch.testing.assert_close(unet(z, t, t), expected, rtol=0, atol=1e-12)


def test_another_scale_factor_is_rejected(published, tmp_path):
    path = stored(published, tmp_path / "rflow.pt", wrapped(0.5))
    assert error_message(ours(), path) == (
        f"{path} has scale_factor 0.5, expected 0.96240234375; use a checkpoint as published"
    )


@pytest.mark.parametrize("conditioning", ["t-h", "h"])
def test_only_the_time_network_is_fresh_and_it_starts_at_the_mean_embedding(published, path, conditioning):
    unet = ours(conditioning=conditioning)
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    fresh = pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    assert set(fresh) == {name for name in before if name.startswith("time_embed.")} - {pretrained.START}
    for name, weight in unet.state_dict().items():
        assert torch.equal(weight, before[name]) == (name in fresh), name
    timesteps = torch.arange(1001, dtype=torch.float64)
    kinds = torch.full((1001,), MODALITY)
    expected = published._get_time_and_class_embedding(timesteps, timesteps, kinds).mean(0)
    torch.testing.assert_close(unet.state_dict()[pretrained.START], expected, rtol=0, atol=1e-5)


def without(name):
    return lambda state: {key: weight for key, weight in state.items() if key != name}


def test_a_missing_file_is_an_error_that_names_its_source(tmp_path):
    path = tmp_path / "rflow.pt"
    assert error_message(ours(), path, FileNotFoundError) == (
        f"no rectified-flow weights at {path}: download {pretrained.SOURCES} to this path"
    )


def test_a_wrong_digest_is_rejected_and_the_right_one_accepted(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pretrained.load_rectified(ours(), path, modality=MODALITY, spacing_mm=SPACING_MM, sha256=digest)
    assert error_message(ours(), path, sha256="0" * 64) == (
        f"{path} has SHA-256 {digest}, expected {'0' * 64}: it is another file or damaged"
    )


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(3)], ids=["list", "numbers", "tensor"])
def test_a_file_without_a_state_dict_is_rejected(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    assert error_message(ours(), tmp_path / "other.pt") == (
        f"{tmp_path / 'other.pt'} is damaged or contains no named tensors; expected {pretrained.SOURCES}"
    )


def test_a_truncated_file_is_rejected(path):
    path.write_bytes(path.read_bytes()[:-1000])
    assert error_message(ours(), path).startswith(f"{path} is damaged or contains no named tensors;")


def test_a_missing_tensor_is_named(published, tmp_path):
    path = stored(published, tmp_path / "rflow.pt", without("conv_in.conv.bias"))
    n = len(published.state_dict())
    assert error_message(ours(), path) == (
        f"{path} does not fit this network: expected {n} tensors, got {n - 1}; missing ['conv_in.conv.bias'], unknown "
        f"none. Expected {pretrained.SOURCES}, and a UNet with its res_blocks, attention and number of widths"
    )


def test_a_network_with_body_region_inputs_is_rejected(tmp_path):
    """The older published diffusion networks, which predict noise, have such inputs."""
    net = published_net(include_top_region_index_input=True, include_bottom_region_index_input=True)
    message = error_message(ours(), stored(net, tmp_path / "ddpm.pt"))
    assert "unknown ['bottom_region_index_layer.0.bias', 'bottom_region_index_layer.0.weight']" in message


def test_other_widths_and_depths_are_rejected(path):
    assert error_message(ours(widths=(32, 96)), path) == (
        f"{path} does not fit this network: down_blocks.1.attentions.0.norm.weight has shape (64,), expected "
        f"(96,). Give the UNet the latent channels and widths of the file"
    )
    assert "missing ['down_blocks.0.resnets.1.conv1" in error_message(ours(res_blocks=2), path)


def test_other_latent_channels_are_rejected(path):
    unet = UNet(8, out_channels=4, **SETTINGS)
    assert "conv_in.conv.weight has shape (32, 4, 3, 3, 3), expected (32, 8, 3, 3, 3)" in error_message(unet, path)


def test_a_spacing_part_of_the_wrong_width_is_rejected(published, tmp_path):
    cut = lambda state: {**state, PROJECTION: state[PROJECTION][:, :128]}  # noqa: E731
    message = error_message(ours(), stored(published, tmp_path / "rflow.pt", cut))
    assert f"{PROJECTION} has shape (32, 128), expected (32, 256)" in message


def test_values_that_are_not_finite_are_rejected(published, tmp_path):
    poison = lambda state: {**state, PROJECTION: state[PROJECTION] / 0}  # noqa: E731
    path = stored(published, tmp_path / "rflow.pt", poison)
    assert error_message(ours(), path) == f"{path} is damaged: {PROJECTION} has values that are not finite"


@pytest.mark.parametrize("changed", [{"patch": 2}, {"norm_groups": 16}, {"head_width": 16}], ids=str)
def test_settings_that_no_shape_reveals_are_checked_too(path, changed):
    found = {"patch": 1, "norm_groups": 32, "head_width": 32} | changed
    assert error_message(ours(**changed), path) == (
        "published rectified-flow weights need a UNet with patch=1, norm_groups=32, head_width=32; got "
        + ", ".join(f"{name}={value}" for name, value in found.items())
    )


@pytest.mark.parametrize("modality", [None, 5, -1])
def test_a_modality_must_be_one_of_the_file(path, modality):
    assert error_message(ours(), path, modality=modality) == f"modality must be from 0 to 4 for {path}; got {modality}"


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0), (1.0, 0.0, 1.0)], ids=str)
def test_a_spacing_must_be_three_lengths(path, spacing_mm):
    assert error_message(ours(), path, spacing_mm=spacing_mm) == (
        f"spacing_mm must be three positive numbers in mm for {path}; got {spacing_mm}"
    )


def test_a_modality_or_spacing_without_input_is_rejected(tmp_path):
    path = stored(published_net(spacing=False, kinds=None), tmp_path / "rflow.pt")
    assert error_message(ours(), path, spacing_mm=None) == (
        f"modality must be None (no modality input) for {path}; got 3"
    )
    assert error_message(ours(), path, modality=None) == (
        f"spacing_mm must be None (no spacing input) for {path}; got {SPACING_MM}"
    )
