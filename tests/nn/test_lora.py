"""LoRA: an untrained fine-tuned network equals its base bit for bit, and only the added weights are trained."""

import copy

import pytest
import torch

from neuromf.lesions import network
from neuromf.meanflow import flow, run
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.nn import lora

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 2}
SHAPE = (4, 8, 8, 8)


def trained(prediction="x", axes=3, seed=0):
    """Network whose last layer is not zero, so that outputs are not equal because they are zero."""
    data = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    base = GaussianPrior.fit(data, axes) if prediction == "x" else None
    u = run.build_network(NET, prediction, prior=base, seed=seed)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=torch.Generator().manual_seed(2))
    return u.eval()


def batch(channels=4, n=2):
    z = torch.randn(n, channels, *SHAPE[1:], generator=torch.Generator().manual_seed(3))
    t = torch.linspace(0.6, 1.0, n)
    return z, t, t - 0.5


def randomise(model):
    """Set the trainable weights to random values."""
    for k, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(k))


def widened(channels=8, target=None, **kind):
    base = trained(**kind)
    u = lora.inject_lora(network.widen(copy.deepcopy(base), channels), rank=4, target_modules=target)
    return base, lora.freeze_base_unfreeze_lora(u)


@pytest.mark.parametrize(("prediction", "axes"), [("x", 3), ("x", 0), ("u", 0)])
@pytest.mark.parametrize("channels", [5, 8])
def test_P7_T2_untrained_the_widened_network_equals_its_base_bit_for_bit(prediction, axes, channels):
    base, u = widened(channels, prediction=prediction, axes=axes)
    z, t, r = batch(channels)
    out = u(z, t, r)
    assert torch.equal(out[:, :4], base(z[:, :4], t, r)) and out.shape == z.shape
    expected = torch.zeros_like(out[:, 4:]) if prediction == "u" else z[:, 4:] / t.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(out[:, 4:], expected)


def test_P7_T2_the_total_derivative_agrees_with_finite_differences():
    _, u = widened()
    randomise(u)
    u = u.double()
    z, t, r = (a.double() for a in batch(8))
    v = torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    u.net.time_embed.double()
    exact = flow.total_derivative(u, z, t, r, v)[1]
    ahead, behind = (u(z + step * v, t + step, r) for step in (1e-4, -1e-4))
    torch.testing.assert_close(exact, (ahead - behind) / 2e-4, rtol=1e-4, atol=1e-5 * float(exact.detach().abs().max()))


def test_P7_T3_only_adapters_and_added_convolutions_train():
    _, u = widened()
    names = {name for name, p in u.named_parameters() if p.requires_grad}
    assert names == set(lora.adapter_state(u)) and names
    assert all("lora_" in name or ".added." in name for name in names)
    u(*batch(8)).square().mean().backward()
    with_gradient = {name for name, p in u.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient <= names and any(".added." in name for name in with_gradient)
    trainable, total = lora.count_trainable_params(u)
    assert trainable == sum(p.numel() for p in u.parameters() if p.requires_grad) < total


@pytest.mark.slow
def test_P7_T3_at_paper_size_lora_is_below_one_percent_and_five_megabytes(tmp_path):
    net = {"widths": [64, 128, 256, 512], "res_blocks": 2, "attention": [False, False, True, True], "norm_groups": 32}
    u = network.widen(run.build_network(net, "x"), 8)
    total = lora.count_trainable_params(u)[1]
    lora.freeze_base_unfreeze_lora(lora.inject_lora(u))
    adapters = sum(p.numel() for name, p in u.named_parameters() if "lora_" in name)
    lora.save_adapter(u, tmp_path / "adapter.safetensors")
    assert adapters < 0.01 * total and (tmp_path / "adapter.safetensors").stat().st_size < 5e6


@pytest.mark.parametrize("target", [None, lora.CONVOLUTIONS])
def test_without_adapters_the_outputs_are_those_of_the_base_bit_for_bit(target):
    base, u = widened(target=target)
    randomise(u)
    z, t, r = batch(8)
    before = u(z, t, r)
    with lora.without_adapters(u):
        assert torch.equal(u(z, t, r)[:, :4], base(z[:, :4], t, r))
    assert torch.equal(u(z, t, r), before) and not torch.equal(before[:, :4], base(z[:, :4], t, r))


def test_an_adapter_is_stored_and_loaded_with_its_settings(tmp_path):
    _, u = widened()
    randomise(u)
    lora.save_adapter(u, tmp_path / "adapter.safetensors", rank=4, channels=8)
    _, fresh = widened()
    settings = lora.load_adapter(fresh, tmp_path / "adapter.safetensors")
    assert settings == {"rank": 4, "channels": 8} and torch.equal(fresh(*batch(8)), u(*batch(8)))


def test_an_adapter_of_another_model_is_refused(tmp_path):
    _, u = widened(channels=5)
    lora.save_adapter(u, tmp_path / "adapter.safetensors", channels=5)
    _, other = widened(channels=8)
    with pytest.raises(
        ValueError, match=r"is no adapter of this model: 3 of 28 tensors differ, .* \(\{'channels': 5\}\)"
    ):
        lora.load_adapter(other, tmp_path / "adapter.safetensors")


def test_networks_that_cannot_be_widened_are_refused():
    with pytest.raises(ValueError, match="more than the 4 of the base network; got 4"):
        network.widen(trained(), 4)
    with pytest.raises(ValueError, match="velocity head"):
        network.widen(run.build_network(NET, "u", velocity_head=True), 8)


def test_target_modules_without_a_match_are_refused():
    with pytest.raises(ValueError, match="not found in the base model"):
        lora.inject_lora(trained(), target_modules="no_such_layer")
