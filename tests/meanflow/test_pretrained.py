"""Published rectified-flow weights in our network: the same function with its sign turned, or a refusal."""

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
    """The published architecture, small, with no weight left at zero; float32 values, computed in float64."""
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
    """In place of our time network: the published one, at the published timestep of our t."""

    def __init__(self, net, modality):
        super().__init__()
        self.net, self.modality = net, modality

    def forward(self, t, r):
        kinds = None if self.modality is None else torch.full(t.shape, self.modality)
        return self.net._get_time_and_class_embedding(t, 1000 * t, kinds)


def told(n, spacing_mm=SPACING_MM, modality=MODALITY):
    """What the published network is told of n samples, besides their timesteps."""
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
    """Our network with the published weights, and the published time embedding in place of its own."""
    unet = ours()
    path = stored(published, tmp_path_factory.mktemp("weights") / "rflow.pt")
    pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(published, MODALITY)
    return unet


def refusal(unet, path, error=ValueError, **changed):
    """The message, where the network was left as it was."""
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    with pytest.raises(error) as caught:
        pretrained.load_rectified(unet, path, **{"modality": MODALITY, "spacing_mm": SPACING_MM, **changed})
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    return str(caught.value)


# --- the same function -------------------------------------------------------------------------------


@torch.no_grad()
def test_the_network_gives_the_published_velocity_with_its_sign_turned(published, loaded):
    z, t = normal(3, 4, 8, 8, 8), torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)
    expected = -published(z, 1000 * t, **told(3))
    assert expected.std() > 0.1
    torch.testing.assert_close(loaded(z, t, t), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_single_precision_loses_no_more_than_in_the_published_network(published, path):
    unet, single = ours().float(), copy.deepcopy(published).float()
    pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(single, MODALITY)
    z, t, choices = normal(2, 4, 8, 8, 8).float(), torch.tensor([0.25, 0.875]), told(2)
    exact = -published(z.double(), 1000 * t.double(), **choices)
    choices["spacing_tensor"] = choices["spacing_tensor"].float()
    errors = [(v - exact).norm() / exact.norm() for v in (unet(z, t, t), -single(z, 1000 * t, **choices))]
    assert errors[0] < 2 * errors[1] < 1e-5


@pytest.mark.parametrize("other", [{"spacing_mm": (1.0, 1.0, 1.0)}, {"modality": 0}], ids=str)
@torch.no_grad()
def test_spacing_and_modality_are_those_chosen(published, loaded, other):
    """The comparison above sees both: at another spacing or modality the published network says something else."""
    z, t = normal(1, 4, 8, 8, 8), torch.tensor([0.5], dtype=torch.float64)
    assert (loaded(z, t, t) + published(z, 1000 * t, **told(1, **other))).abs().max() > 1e-2


@torch.no_grad()
def test_the_published_sampler_and_ours_make_the_same_steps(published, loaded):
    z, times = normal(1, 4, 8, 8, 8), [1.0, 0.6, 0.25, 0.0]
    x, scheduler = z, RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    scheduler.set_timesteps(3)
    for t, r in zip(times[:-1], times[1:], strict=True):
        velocity = published(x, torch.tensor([1000 * t], dtype=torch.float64), **told(1))
        x = scheduler.step(velocity, 1000 * t, x, 1000 * r)[0]
    torch.testing.assert_close(flow.euler(loaded, z, times), x, rtol=0, atol=1e-9)


def test_the_published_path_is_ours():
    x, eps, t = normal(2, 4, 2, 2, 2, key="x"), normal(2, 4, 2, 2, 2, key="eps"), torch.tensor([0.25, 1.0])
    noisy = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False).add_noise(x, eps, 1000 * t)
    torch.testing.assert_close(flow.interpolate(x, eps, t)[0], noisy)


@pytest.mark.parametrize(("spacing_mm", "modality"), [(None, None), (SPACING_MM, None), (None, MODALITY)])
@torch.no_grad()
def test_networks_that_are_told_less_load_too(tmp_path, spacing_mm, modality):
    net = published_net(spacing=spacing_mm is not None, kinds=None if modality is None else 5)
    path, unet = stored(net, tmp_path / "rflow.pt"), ours()
    pretrained.load_rectified(unet, path, modality=modality, spacing_mm=spacing_mm)
    unet.time_embed = PublishedTime(net, modality)
    z, t = normal(2, 4, 8, 8, 8), torch.tensor([0.1, 0.8], dtype=torch.float64)
    expected = -net(z, 1000 * t, **told(2, spacing_mm, modality))
    torch.testing.assert_close(unet(z, t, t), expected, rtol=0, atol=1e-10)


def test_positions_have_no_say_at_first(loaded):
    weight = loaded.conv_in.conv.weight
    assert weight.shape[1] == 4 + N_POSITIONS
    assert torch.equal(weight[:, 4:], torch.zeros_like(weight[:, 4:])) and (weight[:, :4] != 0).all()


@torch.no_grad()
def test_a_second_head_starts_as_the_first(published, path):
    unet = ours(out_channels=8)
    pretrained.load_rectified(unet, path, modality=MODALITY, spacing_mm=SPACING_MM)
    unet.time_embed = PublishedTime(published, MODALITY)
    z, t = normal(1, 4, 8, 8, 8), torch.tensor([0.5], dtype=torch.float64)
    expected = -published(z, 1000 * t, **told(1))
    torch.testing.assert_close(unet(z, t, t), torch.cat([expected, expected], dim=1), rtol=0, atol=1e-10)


def test_a_wrapped_file_gives_the_same_network(published, path, tmp_path):
    wrap = lambda state: {"epoch": 7, "scale_factor": torch.tensor(0.96), "unet_state_dict": state}  # noqa: E731
    wrapped = stored(published, tmp_path / "wrapped.pt", wrap)
    states = []
    for file in (path, wrapped):
        unet = ours()
        pretrained.load_rectified(unet, str(file), modality=MODALITY, spacing_mm=SPACING_MM)
        states.append(unet.state_dict())
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


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


# --- what is refused ---------------------------------------------------------------------------------


def without(name):
    return lambda state: {key: weight for key, weight in state.items() if key != name}


def test_a_missing_file_says_where_to_get_it(tmp_path):
    path = tmp_path / "rflow.pt"
    assert refusal(ours(), path, FileNotFoundError) == (
        f"no rectified-flow weights at {path}: take {pretrained.SOURCES} and put it there"
    )


def test_a_wrong_digest_is_refused_and_the_right_one_taken(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pretrained.load_rectified(ours(), path, modality=MODALITY, spacing_mm=SPACING_MM, sha256=digest)
    assert refusal(ours(), path, sha256="0" * 64) == (
        f"{path} has SHA-256 {digest}, asked for is {'0' * 64}: it is another file or damaged"
    )


@pytest.mark.parametrize("thing", [[1, 2], {"epoch": 3}, torch.ones(3)], ids=["list", "numbers", "tensor"])
def test_what_is_no_state_dict_is_refused(tmp_path, thing):
    torch.save(thing, tmp_path / "other.pt")
    assert refusal(ours(), tmp_path / "other.pt") == (
        f"{tmp_path / 'other.pt'} is damaged or holds no named tensors; expected {pretrained.SOURCES}"
    )


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(ours(), path).startswith(f"{path} is damaged or holds no named tensors;")


def test_a_missing_tensor_is_named(published, tmp_path):
    path = stored(published, tmp_path / "rflow.pt", without("conv_in.conv.bias"))
    n = len(published.state_dict())
    assert refusal(ours(), path) == (
        f"{path} does not fit this network: wanted {n} tensors, got {n - 1}; missing ['conv_in.conv.bias'], unknown "
        f"none. Expected {pretrained.SOURCES}, and a UNet of its res_blocks, attention and number of widths"
    )


def test_a_network_told_the_body_region_is_refused(tmp_path):
    """Such are the older diffusion networks, which predict noise."""
    net = published_net(include_top_region_index_input=True, include_bottom_region_index_input=True)
    message = refusal(ours(), stored(net, tmp_path / "ddpm.pt"))
    assert "unknown ['bottom_region_index_layer.0.bias', 'bottom_region_index_layer.0.weight']" in message


def test_other_widths_and_depths_are_refused(path):
    assert refusal(ours(widths=(32, 96)), path) == (
        f"{path} does not fit this network: down_blocks.1.attentions.0.norm.weight has shape (64,), wanted "
        f"(96,). Give the UNet the latent channels and widths of the file"
    )
    assert "missing ['down_blocks.0.resnets.1.conv1" in refusal(ours(res_blocks=2), path)


def test_other_latent_channels_are_refused(path):
    unet = UNet(8, out_channels=4, **SETTINGS)
    assert "conv_in.conv.weight has shape (32, 4, 3, 3, 3), wanted (32, 8, 3, 3, 3)" in refusal(unet, path)


def test_a_spacing_part_of_the_wrong_width_is_refused(published, tmp_path):
    cut = lambda state: {**state, PROJECTION: state[PROJECTION][:, :128]}  # noqa: E731
    message = refusal(ours(), stored(published, tmp_path / "rflow.pt", cut))
    assert f"{PROJECTION} has shape (32, 128), wanted (32, 256)" in message


def test_values_that_are_not_finite_are_refused(published, tmp_path):
    poison = lambda state: {**state, PROJECTION: state[PROJECTION] / 0}  # noqa: E731
    path = stored(published, tmp_path / "rflow.pt", poison)
    assert refusal(ours(), path) == f"{path} is damaged: {PROJECTION} holds values that are not finite"


@pytest.mark.parametrize("changed", [{"patch": 2}, {"norm_groups": 16}, {"head_width": 16}], ids=str)
def test_what_no_tensor_tells_is_checked_too(path, changed):
    found = {"patch": 1, "norm_groups": 32, "head_width": 32} | changed
    assert refusal(ours(**changed), path) == (
        "published rectified-flow weights need a UNet with patch=1, norm_groups=32, head_width=32; got "
        + ", ".join(f"{name}={value}" for name, value in found.items())
    )


@pytest.mark.parametrize("modality", [None, 5, -1])
def test_a_modality_must_be_one_of_the_file(path, modality):
    assert refusal(ours(), path, modality=modality) == f"modality must be from 0 to 4 for {path}; got {modality}"


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0), (1.0, 0.0, 1.0)], ids=str)
def test_a_spacing_must_be_three_lengths(path, spacing_mm):
    assert refusal(ours(), path, spacing_mm=spacing_mm) == (
        f"spacing_mm must be three positive numbers in mm for {path}; got {spacing_mm}"
    )


def test_choices_that_a_network_is_not_told_are_refused(tmp_path):
    path = stored(published_net(spacing=False, kinds=None), tmp_path / "rflow.pt")
    assert refusal(ours(), path, spacing_mm=None) == (
        f"modality must be None, as this network is not told it for {path}; got 3"
    )
    assert refusal(ours(), path, modality=None) == (
        f"spacing_mm must be None, as this network is not told it for {path}; got {SPACING_MM}"
    )
