"""The frozen autoencoder: architecture, refused weights and inputs, shapes, memory, and the training loss."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiGroupNorm3D
from safetensors.torch import save_file
from torch import nn

from neuromf.core import seeds
from neuromf.simulation import brains
from neuromf.vae import maisi, train, weights

SHAPE_CASES = [("compact", 16), ("compact", 32), ("published", 16), ("published", 32)]
FIRST = "encoder.blocks.0.conv.conv.weight"


def uniform(*shape, key="vae"):
    return torch.rand(shape, generator=seeds.generator("test", key))


def seeded(architecture, **settings):
    """An autoencoder with the same random weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return maisi.MAISIVAEWrapper(architecture, **settings)


@pytest.fixture(scope="module")
def published():
    return seeded(maisi.PUBLISHED)


@pytest.fixture(scope="module")
def compact():
    return seeded(maisi.COMPACT)


@pytest.fixture(scope="module")
def nets(published, compact):
    return {"published": published, "compact": compact}


@pytest.fixture
def stored(published, tmp_path):
    """Function that saves the published state dict after an edit and returns the file."""

    def make(edit=lambda state: state, name="autoencoder.pt"):
        torch.save(edit(dict(published.net.state_dict())), tmp_path / name)
        return tmp_path / name

    return make


def message(error):
    return str(error.value)


def refusal(path):
    with pytest.raises(ValueError) as error:
        weights.load(path)
    return message(error)


# --- architecture and weights ------------------------------------------------------------------------


def test_P0_T1_the_published_architecture_has_its_parameters_and_entries(published):
    state = published.net.state_dict()
    assert len(state) == 130
    assert sum(p.numel() for p in published.parameters()) == 20_944_897
    assert sum(weight.numel() for weight in state.values()) == 20_944_897


@pytest.mark.parametrize("wrapped", [False, True])
def test_P0_T1_published_weights_load_wrapped_or_not(published, stored, wrapped):
    net = weights.load(stored((lambda state: {"unet_state_dict": state}) if wrapped else (lambda state: state)))
    assert net.architecture == maisi.PUBLISHED
    for name, weight in net.net.state_dict().items():
        assert torch.equal(weight, published.net.state_dict()[name]), name


def test_P0_T1_a_missing_tensor_is_named(stored):
    path = stored(lambda state: {name: w for name, w in state.items() if name != FIRST})
    assert refusal(path) == (
        f"{path} is not this autoencoder: expected 130 tensors, got 129; missing ['{FIRST}'], unknown none. "
        f"Use {weights.PUBLISHED_FILES}, or a file written by the rule autoencoder"
    )


def test_P0_T1_an_unknown_tensor_is_named(stored):
    path = stored(lambda state: {**state, "discriminator.weight": torch.zeros(1)})
    assert refusal(path) == (
        f"{path} is not this autoencoder: expected 130 tensors, got 131; missing none, "
        f"unknown ['discriminator.weight']. Use {weights.PUBLISHED_FILES}, or a file written by the rule autoencoder"
    )


def test_P0_T1_a_wrong_shape_is_named_with_the_right_one(stored):
    path = stored(lambda state: {**state, FIRST: state[FIRST][:, :, :1]})
    assert refusal(path) == (
        f"{path} is not this autoencoder: {FIRST} has shape (64, 1, 1, 3, 3), expected (64, 1, 3, 3, 3)"
    )


def test_P0_T1_values_that_are_not_finite_are_refused(stored):
    def poison(state):
        state[FIRST] = state[FIRST].clone()
        state[FIRST].view(-1)[7] = float("nan")
        return state

    path = stored(poison)
    assert refusal(path) == f"{path} is damaged: {FIRST} holds values that are not finite"


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"epoch": 3, "loss": 0.5}, torch.ones(3)], ids=["list", "empty", "numbers", "tensor"]
)
def test_P0_T1_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    assert refusal(tmp_path / "other.pt") == (
        f"{tmp_path / 'other.pt'} holds no state dict of tensors; a MAISI autoencoder has 130 named tensors"
    )


def test_a_wrapped_object_that_is_no_state_dict_is_refused(tmp_path):
    torch.save({"unet_state_dict": torch.ones(3)}, tmp_path / "other.pt")
    assert refusal(tmp_path / "other.pt").startswith(f"{tmp_path / 'other.pt'} holds no state dict of tensors;")


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_P0_T1_a_truncated_file_is_refused(stored, fraction):
    path = stored()
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    assert refusal(path).startswith(f"{path} cannot be read as weights (")


def test_P0_T1_a_pickle_with_code_is_never_run(stored, tmp_path):
    witness = tmp_path / "was-run"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (witness,))

    path = stored(lambda state: {**state, "note": Payload()})
    assert refusal(path).startswith(f"{path} cannot be read as weights (it is a pickle with ")
    assert not witness.exists()


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_refused(compact, tmp_path, fraction):
    path = tmp_path / "vae.safetensors"
    weights.save_weights(compact, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    assert refusal(path).startswith(f"{path} cannot be read as weights (")


def test_a_safetensors_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    assert refusal(path).startswith(f"{path} is not this autoencoder: expected 130 tensors, got 1; missing ['decoder.")


def test_P0_T1_a_wrong_digest_is_refused(tmp_path):
    path = tmp_path / "autoencoder_v1.pt"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert weights.resolve_weights(str(path), digest) == weights.resolve_weights(str(path)) == path
    with pytest.raises(ValueError) as error:
        weights.resolve_weights(str(path), "0" * 64)
    assert message(error) == (
        f"{path} has SHA-256 {digest}, but autoencoder.sha256 is {'0' * 64}: it is another file or damaged"
    )


def test_P0_T1_the_message_for_a_missing_file_names_source_and_config_key(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        weights.resolve_weights(str(tmp_path / "autoencoder_v1.pt"), "0" * 64)
    assert message(error) == (
        f"no autoencoder weights at {tmp_path / 'autoencoder_v1.pt'} (config key autoencoder.weights; SHA-256 "
        f"{'0' * 64}). Put autoencoder_v1.pt of nvidia/NV-Generate-CT or autoencoder_v2.pt of nvidia/NV-Generate-MR "
        "there, or set autoencoder.weights to packaged or null"
    )
    with pytest.raises(FileNotFoundError, match=r"\(config key autoencoder.weights; SHA-256 not given\)"):
        weights.resolve_weights(str(tmp_path / "autoencoder_v1.pt"))


def test_random_weights_are_determined_by_their_seed():
    assert weights.resolve_weights(None) is None
    first, again, other = (weights.build_autoencoder(maisi.COMPACT, None, seed=seed) for seed in (1, 1, 2))
    states = [net.net.state_dict()[FIRST] for net in (first, again, other)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_the_initial_posterior_is_narrow():
    std = weights.build_autoencoder(maisi.COMPACT, None, seed=0).encode(torch.zeros(1, 1, 16, 16, 16))[1]
    assert 0.5 * np.exp(weights.START_LOG_STD) < std.median() < 2 * np.exp(weights.START_LOG_STD)


def test_weights_of_another_architecture_are_refused(compact, tmp_path):
    path = tmp_path / "vae.safetensors"
    weights.save_weights(compact, path)
    assert weights.build_autoencoder(maisi.COMPACT, path, seed=0).architecture == maisi.COMPACT
    with pytest.raises(ValueError) as error:
        weights.build_autoencoder(maisi.PUBLISHED, path, seed=0)
    assert message(error) == f"{path} is {maisi.COMPACT}; autoencoder.architecture asks for {maisi.PUBLISHED}"


def test_an_architecture_that_does_not_downsample_four_times_is_refused():
    with pytest.raises(ValueError) as error:
        maisi.Architecture(patch=2)
    assert message(error) == (
        "patch 2 with 3 widths downsamples 8x; latents are 4x: use patch 1 with 3 widths or patch 2 with 2"
    )


@pytest.mark.parametrize("name", ["compact", "published"])
def test_saved_weights_are_loaded_exactly_and_float16_ones_closely(nets, tmp_path, name):
    net = nets[name]
    weights.save_weights(net, tmp_path / "full.safetensors")
    weights.save_weights(net, tmp_path / "half.safetensors", half=True)
    full, half = (weights.load(tmp_path / f"{kind}.safetensors") for kind in ("full", "half"))
    assert full.architecture == half.architecture == maisi.ARCHITECTURES[name]
    for key, weight in net.net.state_dict().items():
        assert torch.equal(full.net.state_dict()[key], weight), key
        assert half.net.state_dict()[key].dtype == torch.float32
        torch.testing.assert_close(half.net.state_dict()[key], weight, rtol=2**-11, atol=1e-7)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * (tmp_path / "full.safetensors").stat().st_size


def test_P0_T6_every_parameter_is_frozen(nets, tmp_path):
    weights.save_weights(nets["compact"], tmp_path / "vae.safetensors")
    for net in (
        *nets.values(),
        weights.load(tmp_path / "vae.safetensors"),
        weights.build_autoencoder(maisi.COMPACT, None, seed=0),
    ):
        assert len(list(net.parameters())) > 50
        assert not any(p.requires_grad for p in net.parameters()) and not net.training


# --- volumes and latents -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), SHAPE_CASES)
def test_P0_T2_latents_are_downsampled_four_times(nets, name, side):
    volume = uniform(1, 1, side, side, side)
    mean, std = nets[name].encode(volume)
    assert mean.shape == std.shape == (1, 4, side // 4, side // 4, side // 4)
    assert mean.isfinite().all() and std.isfinite().all() and (std > 0).all()


@pytest.mark.parametrize(("name", "side"), SHAPE_CASES)
def test_P0_T3_volumes_are_upsampled_four_times(nets, name, side):
    volume = nets[name].decode(uniform(1, 4, side // 4, side // 4, side // 4))
    assert volume.shape == (1, 1, side, side, side) and volume.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "published"])
def test_P0_T2_P0_T3_full_size_volumes_are_encoded_and_decoded(nets, name):
    volume = uniform(1, 1, 128, 128, 128)
    with torch.inference_mode():
        mean, std = nets[name].encode(volume)
        assert mean.shape == std.shape == (1, 4, 32, 32, 32)
        assert nets[name].decode(mean).shape == volume.shape


@pytest.mark.parametrize("name", ["compact", "published"])
def test_axes_and_batch_rows_keep_their_order(nets, name):
    volume = uniform(2, 1, 8, 12, 16)
    mean = nets[name].encode(volume)[0]
    assert mean.shape == (2, 4, 2, 3, 4)
    torch.testing.assert_close(nets[name].encode(volume[1:])[0], mean[1:], rtol=0, atol=1e-5)
    assert nets[name].decode(mean).shape == volume.shape
    torch.testing.assert_close(nets[name].reconstruct(volume), nets[name].decode(mean))


class Identity(nn.Module):
    """A network that returns its input, to test the space-to-depth around it."""

    def encode(self, x):
        self.input = x
        return x, x

    def decode(self, x):
        return x


def test_space_to_depth_is_a_permutation_that_the_decoder_undoes(monkeypatch):
    monkeypatch.setattr(maisi, "LATENT_CHANNELS", 8)
    net = seeded(maisi.COMPACT)
    net.net = Identity()
    volume = torch.arange(2 * 8 * 12 * 16.0).view(2, 1, 8, 12, 16)
    assert torch.equal(net.reconstruct(volume), volume)
    received = net.net.input
    assert received.shape == (2, 8, 4, 6, 8)
    for channel, (p, q, s) in enumerate(np.ndindex(2, 2, 2)):
        assert torch.equal(received[:, channel], volume[:, 0, p::2, q::2, s::2])


@pytest.mark.parametrize("shape", [(1, 1, 10, 16, 16), (1, 1, 16, 16, 18), (1, 2, 16, 16, 16), (1, 16, 16, 16)])
def test_volumes_of_a_wrong_shape_are_refused(compact, shape):
    with pytest.raises(ValueError) as error:
        compact.encode(torch.zeros(shape))
    assert message(error) == (
        f"volumes must have shape (B, 1, I, J, K) with I, J, K multiples of 4; got {shape}: crop or pad them first"
    )


@pytest.mark.parametrize("shape", [(1, 3, 4, 4, 4), (4, 4, 4, 4)])
def test_latents_of_a_wrong_shape_are_refused(compact, shape):
    with pytest.raises(ValueError) as error:
        compact.decode(torch.zeros(shape))
    assert message(error) == f"latents must have shape (B, 4, I, J, K); got {shape}"


def test_P0_T7_bf16_is_finite_and_close_to_float32(compact):
    """The mean error is below 2 % of a standard deviation: bf16 has 8 significant bits, errors of all layers add up."""
    volume = uniform(1, 1, 32, 32, 32)
    mean, std = compact.encode(volume)
    decoded = compact.decode(mean)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = *compact.encode(volume), compact.decode(mean)
    assert halves[0].dtype == torch.bfloat16
    for half, exact in zip(halves, (mean, std, decoded), strict=True):
        assert half.isfinite().all()
        assert (half.float() - exact).abs().mean() < 0.02 * exact.std()


def test_native_group_norm_equals_group_norm_of_monai():
    ours = seeded(maisi.COMPACT)
    replaced = [module for module in ours.net.modules() if type(module) is nn.GroupNorm]
    assert len(replaced) > 5 and not any(isinstance(module, MaisiGroupNorm3D) for module in ours.net.modules())
    for k, module in enumerate(replaced):
        for weight, key in ((module.weight, "weight"), (module.bias, "bias")):
            weight.data = 0.5 + uniform(*weight.shape, key=f"{key} {k}")
    volume = uniform(2, 1, 16, 16, 16)
    expected = ours.encode(volume)[0], ours.decode(ours.encode(volume)[0])
    for module in replaced:
        module.__class__ = MaisiGroupNorm3D
    got = ours.encode(volume)[0], ours.decode(ours.encode(volume)[0])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_the_onednn_convolution_equals_that_of_torch_and_has_gradients():
    ours = seeded(maisi.COMPACT)
    replaced = [module for module in ours.net.modules() if type(module) is maisi._Convolution]
    assert len(replaced) > 10
    volume = uniform(1, 1, 16, 16, 16)
    mean = ours.encode(volume)[0]
    got = mean, ours.decode(mean)
    ours.requires_grad_(True)
    ours.encode(volume)[0].square().sum().backward()
    assert all(module.weight.grad is not None for module in replaced[:3])
    ours.requires_grad_(False)
    for module in replaced:
        module.__class__ = nn.Conv3d
    torch.testing.assert_close(got, (ours.encode(volume)[0], ours.decode(mean)), rtol=0, atol=1e-5)


# --- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("latent_side", "n"), [(12, 2), (12, 4), (20, 4), (24, 8)])
def test_split_convolutions_give_the_result_of_whole_ones(compact, latent_side, n):
    split = seeded(maisi.COMPACT, num_splits=n)
    volume = uniform(1, 1, 8, 4 * latent_side, 8)
    latent = compact.encode(volume)[0]
    torch.testing.assert_close(split.encode(volume)[0], latent, rtol=0, atol=1e-4)
    torch.testing.assert_close(split.decode(latent), compact.decode(latent), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("latent_side", "n"), [(8, 4), (10, 4), (14, 4), (16, 8), (28, 8)])
def test_sizes_that_monai_cannot_split_are_refused(latent_side, n):
    split = seeded(maisi.COMPACT, num_splits=n)
    for call in (
        lambda: split.encode(uniform(1, 1, 8, 4 * latent_side, 8)),
        lambda: split.decode(uniform(1, 4, 2, latent_side, 2)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert message(error) == (
            f"{latent_side} latent positions along the second axis cannot be split into {n} pieces: "
            f"autoencoder.num_splits must be 1 or divide {latent_side} into pieces of at least 3"
        )


def test_the_number_of_splits_is_stored_with_the_weights(tmp_path):
    weights.save_weights(seeded(maisi.COMPACT, num_splits=2), tmp_path / "vae.safetensors")
    assert weights.load(tmp_path / "vae.safetensors").num_splits == 2
    assert weights.build_autoencoder(maisi.COMPACT, tmp_path / "vae.safetensors", seed=0, num_splits=4).num_splits == 4


@pytest.mark.parametrize(
    "reason", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: ")]
)
def test_the_message_for_too_little_memory_names_the_config_key(monkeypatch, reason):
    net = seeded(maisi.COMPACT)

    def encode(volume):
        raise reason

    monkeypatch.setattr(net, "encode", encode)
    with pytest.raises(MemoryError) as error:
        maisi.encode_safely(net, uniform(1, 1, 8, 40, 8))
    assert message(error) == (
        "the autoencoder ran out of memory on cpu: set autoencoder.num_splits to 2 (now 1; pieces of each "
        "convolution), or reduce volumes.shape"
    )


def test_other_errors_are_raised_unchanged(compact):
    with pytest.raises(ValueError, match="volumes must have shape"):
        maisi.encode_safely(compact, torch.zeros(1, 1, 10, 8, 8))
    with pytest.raises(RuntimeError, match="should be the same"):
        maisi.encode_safely(compact, torch.zeros(1, 1, 8, 8, 8, dtype=torch.int64))


def test_an_unknown_precision_is_refused(compact):
    with pytest.raises(ValueError) as error:
        maisi.encode_safely(compact, torch.zeros(1, 1, 8, 8, 8), precision="fp8")
    assert message(error) == "precision must be one of float32, bf16; got 'fp8'"


# --- the loss --------------------------------------------------------------------------------------


def test_reconstruction_loss_equals_numpy():
    volume, decoded = uniform(2, 1, 6, 5, 7, key="a").double(), uniform(2, 1, 6, 5, 7, key="b").double()
    mean, std = uniform(2, 4, 3, 3, 3, key="c").double() - 0.5, 0.1 + uniform(2, 4, 3, 3, 3, key="d").double()
    parts = train.reconstruction_loss(volume, decoded, mean, std, kl_weight=0.3)
    a, b, m, s = (x.numpy() for x in (volume, decoded, mean, std))
    expected = {
        "intensity": np.abs(b - a).mean(),
        "gradient": sum(np.abs(np.diff(b, axis=k) - np.diff(a, axis=k)).mean() for k in (2, 3, 4)),
        "kl": (-np.log(s) + (s**2 + m**2) / 2 - 1 / 2).mean(),
    }
    expected["loss"] = expected["intensity"] + expected["gradient"] + 0.3 * expected["kl"]
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(expected, rel=1e-12)


def test_kl_equals_that_of_torch_and_is_zero_for_the_prior():
    volume = torch.zeros(1, 1, 4, 4, 4)
    mean, std = torch.tensor([[0.7]]).double().view(1, 1, 1, 1, 1), torch.tensor(0.4).double().view(1, 1, 1, 1, 1)
    posterior, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    kl = train.reconstruction_loss(volume, volume, mean, std, kl_weight=1.0)["kl"]
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(posterior, prior).mean())
    perfect = train.reconstruction_loss(volume, volume, torch.zeros_like(mean), torch.ones_like(std), kl_weight=1.0)
    assert all(float(part) == 0 for part in perfect.values())


def test_a_constant_shift_of_intensity_has_no_gradient_loss():
    volume = uniform(1, 1, 4, 4, 4).double()
    mean, std = torch.zeros(1, 4, 1, 1, 1).double(), torch.ones(1, 4, 1, 1, 1).double()
    parts = train.reconstruction_loss(volume, volume + 0.25, mean, std, kl_weight=1.0)
    assert float(parts["intensity"]) == pytest.approx(0.25) and float(parts["gradient"]) == pytest.approx(0, abs=1e-12)


def test_count_parameters_counts_the_state_dict(nets):
    assert weights.count_parameters(nets["compact"]) == {"parameters": 697_000, "entries": 58}
    assert weights.count_parameters(nets["published"]) == {"parameters": 20_944_897, "entries": 130}


# --- the packaged weights ----------------------------------------------------------------------------


@pytest.mark.skipif(not weights.PACKAGED.is_file(), reason=f"{weights.PACKAGED.name} is not in the package")
def test_P0_T1_the_packaged_weights_reconstruct_a_brain():
    net = weights.build_autoencoder(maisi.COMPACT, weights.resolve_weights("packaged"), seed=0)
    scanner = {"shape": (32, 32, 24), "spacing_mm": (7.5, 7.5, 7.5)}
    volume = torch.from_numpy(brains.simulate_scan(0, seed=0, variation=brains.Variation(), **scanner)[0])[None, None]
    mean, std = net.encode(volume)
    assert mean.shape == std.shape == (1, 4, 8, 8, 6) and (std > 0).all()
    assert net.decode(mean).shape == volume.shape and net.decode(mean).isfinite().all()
