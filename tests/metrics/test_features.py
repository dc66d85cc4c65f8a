"""Feature sets: sensitivity of encoder features, inputs of RadImageNet, and error messages."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from neuromf.data import preprocessing
from neuromf.metrics import controls
from neuromf.metrics.distances import frechet, table
from neuromf.metrics.features import backbones, registry
from neuromf.metrics.features import encoder as encoder_module
from neuromf.vae import maisi, weights

REAL = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
SHAPE = (32, 40, 32)


def message(error):
    return str(error.value)


def brains(n, seed):
    """Asymmetric blobs (n, I, J, K) in [0, 1]: an off-centre core, and folds that differ between blobs."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    volumes = []
    for _ in range(n):
        radius = np.linalg.norm(grid / rng.normal(0.8, 0.04, (3, 1, 1, 1)), axis=0)
        core = np.linalg.norm((grid - [[[[0.25]]], [[[0.1]]], [[[0]]]]) / rng.normal(0.3, 0.03), axis=0)
        folds = gaussian_filter(rng.standard_normal(SHAPE), 1.2) * 1.5
        volumes.append(np.clip((0.5 + 0.3 * (core < 1) + 0.5 * folds) * (radius < 1), 0, 1))
    return np.array(volumes, np.float32)


@pytest.fixture(scope="module")
def net():
    return weights.load(weights.PACKAGED)


@pytest.fixture(scope="module")
def scans():
    return brains(40, 0), brains(24, 1)


@pytest.fixture(scope="module")
def encoder(net, scans):
    return registry.open_features("autoencoder", vae=net, scale=encoder_module.calibrate(net, scans[0][:24]))


@pytest.fixture(scope="module")
def known(encoder, scans):
    """Features of both groups."""
    return [encoder(group)[""] for group in scans]


# --- the encoder -------------------------------------------------------------------------------------


def test_moments_are_those_of_each_cell():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 4, 6, 4))).float() + 5
    got = encoder_module.cell_moments(x, 2)
    assert got.shape == (1, 2, 3, 8)
    part = x[0, 1, 2:, :3, 2:].numpy()
    square = sum((np.diff(x[0, 1].numpy(), axis=k, append=np.nan)) ** 2 for k in range(3))
    slopes = np.stack([np.diff(x[0, 1].numpy(), axis=k, append=x[0, 1].numpy().take([-1], k)) for k in range(3)])
    expected = [part.mean(), part.std(), np.sqrt(np.sum(slopes**2, 0)[2:, :3, 2:].mean())]
    assert np.isnan(square).any()  # the last voxel has no difference: it counts as 0
    np.testing.assert_allclose(got[0, 1, :, 0b101], expected, rtol=1e-5)


@pytest.mark.parametrize(("architecture", "widths"), [("compact", [32, 64]), ("published", [64, 128, 256])])
def test_every_resolution_gives_its_last_residual_block(architecture, widths):
    blocks = encoder_module.residual_blocks(maisi.MAISIVAEWrapper(maisi.ARCHITECTURES[architecture]))
    assert [block.conv2.conv.out_channels for block in blocks] == widths


def test_features_of_a_volume_do_not_depend_on_its_set(net, encoder, scans):
    both, second = encoder(scans[1][:2])[""], encoder(scans[1][1:2])[""]
    assert encoder.name == "autoencoder-512" and both.shape == (2, 1, 512) and both.dtype == np.float32
    np.testing.assert_array_equal(both[1:], second)
    assert not any(block._forward_hooks for block in encoder_module.residual_blocks(net))
    again = registry.open_features("autoencoder", vae=net, scale=encoder_module.calibrate(net, scans[0][:24]))
    np.testing.assert_array_equal(again(scans[1][:1])[""], both[:1])


def test_features_have_unit_variance_between_scans(known):
    np.testing.assert_allclose(known[0].var(axis=0).mean(), 1, rtol=0.2)
    np.testing.assert_allclose(known[1].var(axis=0).mean(), 1, rtol=0.3)


def test_the_random_projection_preserves_distances(encoder, scans):
    each = encoder.per_volume
    with torch.no_grad():
        moments = torch.stack(
            [encoder_module.moments(each.vae, encoder_module.as_tensor(volume)) for volume in scans[1][:6]]
        )
    whole = ((moments - each.centre) / each.unit).flatten(1).double().numpy() * np.sqrt(512 / each.centre.numel())
    short = encoder(scans[1][:6])[""][:, 0]
    gaps = [[np.linalg.norm(a - b) for a in x for b in x] for x in (whole, short)]
    pairs = np.array(gaps)[:, np.array(gaps)[0] > 0]
    np.testing.assert_allclose(pairs[1] / pairs[0], 1, atol=0.25)
    assert np.corrcoef(pairs)[0, 1] > 0.7


def test_features_are_more_sensitive_to_texture_than_posterior_means(net, encoder, scans, known):
    blurred = gaussian_filter(scans[1], (0, 0.8, 0.8, 0.8))

    def means(volumes):
        with torch.no_grad():
            mean = net.encode(torch.from_numpy(volumes)[:, None])[0]
        return nn.functional.avg_pool3d(mean, 2).flatten(1).double().numpy()

    train = means(scans[0])
    axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:16]
    old = [frechet.frechet_distance(train @ axes.T, means(x) @ axes.T) for x in (scans[1], blurred)]
    new = [frechet.frechet_distance(known[0][:, 0], x[:, 0]) for x in (known[1], encoder(blurred)[""])]
    assert new[1] > 2 * new[0] and old[1] < 1.5 * old[0]


def test_all_distances_put_the_controls_in_order(encoder, scans, known):
    rows = []
    for name, volumes in controls.control_sets(scans[1], block=8).items():
        rows += [{"set": name, **row} for row in table.distances(known[0], encoder(volumes)[""], "e", n_boot=4)]
    for metric in ("frechet", "frechet_equal_n24", "kid", "mmd2", "sliced_wasserstein"):
        of_metric = [row for row in rows if row["metric"] == metric]
        chains = [chain for chain in controls.CHAINS if metric != "mmd2" or "noisier" not in chain]
        assert controls.in_order(of_metric, chains=chains), metric


def test_a_left_right_flip_is_detected(encoder, scans, known):
    flipped = encoder(scans[1][:, ::-1])[""]
    rows = [{r["metric"]: r for r in table.distances(known[0], x, "e", n_boot=20)} for x in (known[1], flipped)]
    for metric in ("frechet", "kid", "mmd2", "sliced_wasserstein"):
        assert rows[1][metric]["value"] > 1.5 * abs(rows[0][metric]["value"]), metric
    assert rows[1]["kid"]["low"] > rows[0]["kid"]["high"]


def test_three_repeated_brains_are_detected(encoder, scans, known):
    alike = np.clip(scans[1][[0, 1, 2] * 8] + 0.002 * np.random.default_rng(0).standard_normal(scans[1].shape), 0, 1)
    good, bad = (
        {r["metric"]: r["value"] for r in table.distances(known[0], x, "e", n_boot=4)}
        for x in (known[1], encoder(alike)[""])
    )
    assert bad["frechet"] > 1.3 * good["frechet"] and bad["kid"] > 10 * abs(good["kid"])
    assert bad["coverage"] < 0.5 * good["coverage"] and bad["recall"] < 0.2 < good["recall"]


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "ixi_t1_2mm").is_dir(), reason=f"no real scans in {REAL}; set NEUROMF_REAL_DATA")
def test_controls_of_real_scans_are_in_order(net):
    scans = sorted((REAL / "ixi_t1_2mm" / "T1").glob("*.nii.gz"))[:60]
    masks = [REAL / "ixi_t1_2mm" / "dlmuse" / path.name.replace("-T1.", "-DLMUSE.") for path in scans]
    grid = {"spacing_mm": 2.0, "shape": (80, 96, 80)}
    real = np.stack([preprocessing.prepare(s, mask=m, **grid)[0] for s, m in zip(scans, masks, strict=True)])
    first, second = (real[half] for half in controls.halves(len(real)))
    found = registry.open_features("autoencoder", vae=net, scale=encoder_module.calibrate(net, first))
    reference = found(first)[""]
    rows = []
    for name, volumes in controls.control_sets(second).items():
        rows += [{"set": name, **row} for row in table.distances(reference, found(volumes)[""], "e", n_boot=4)]
    for metric in ("frechet", "frechet_equal_n30", "kid", "sliced_wasserstein"):
        assert controls.in_order([row for row in rows if row["metric"] == metric]), metric


# --- published networks ------------------------------------------------------------------------------


def saved(net, path):
    """A file of random weights of a network."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def radimagenet(tmp_path_factory):
    return saved(backbones.radimagenet_net(), tmp_path_factory.mktemp("weights") / "radimagenet.pth")


def test_radimagenet_returns_2048_features_of_central_slices_in_three_planes(radimagenet, scans):
    digest = hashlib.sha256(radimagenet.read_bytes()).hexdigest()
    found = registry.open_features("radimagenet", weights=radimagenet, sha256=digest, centre=0.2)
    got = found(scans[1][:2])
    assert found.name == "radimagenet-centre0.2"
    assert {plane: x.shape for plane, x in got.items()} == {
        "xy": (2, 7, 2048), "yz": (2, 7, 2048), "zx": (2, 8, 2048)
    }  # fmt: skip
    assert np.isfinite(got["xy"]).all() and np.ptp(got["xy"][:, 0], axis=0).max() > 0


def test_radimagenet_has_the_layout_of_keras():
    """The first convolution of a block has the stride, every convolution a bias, and epsilon is that of Keras."""
    net = backbones.radimagenet_net()
    assert net.layer2[0].conv1.stride == (2, 2) and net.layer2[0].conv2.stride == (1, 1)
    assert net.layer1[0].conv1.stride == net.layer2[1].conv1.stride == (1, 1)
    assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1.001e-5}
    state = net.state_dict()
    assert len(state) == 53 * 2 + 53 * 5 and state["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert {"conv1.bias", "layer3.0.downsample.0.bias", "layer3.0.downsample.1.running_var"} <= state.keys()


def test_slices_and_network_input_follow_the_protocol():
    volume = torch.arange(6 * 4 * 10.0).view(6, 4, 10)
    assert [backbones.middle(volume, axis, 0.5).shape for axis in backbones.PLANES.values()] == [
        (5, 6, 4), (3, 4, 10), (2, 6, 10)
    ]  # fmt: skip
    torch.testing.assert_close(backbones.middle(volume, 2, 0.5)[0], volume[:, :, 2])
    got = backbones.network_input(volume[:2, :, :1].movedim(2, 0))
    assert got.shape == (1, 3, 2, 4)
    torch.testing.assert_close(got.amin((0, 2, 3)), -torch.tensor([0.406, 0.456, 0.485]))
    torch.testing.assert_close(got.amax((0, 2, 3)), 1 - torch.tensor([0.406, 0.456, 0.485]))


# --- errors ------------------------------------------------------------------------------------------


def test_an_unknown_name_or_setting_is_refused(net, scans, radimagenet):
    with pytest.raises(ValueError) as error:
        registry.open_features("vgg")
    assert message(error) == "features must be one of encoder, autoencoder, deepbet, radimagenet; got vgg"
    with pytest.raises(ValueError) as error:
        registry.open_features("encoder", vae=net)
    needs = "need scale, the result of `calibrate`, and autoencoder needs vae, the study's autoencoder"
    assert message(error) == f"features encoder {needs}"
    with pytest.raises(ValueError) as error:
        registry.open_features("autoencoder", scale=np.ones((2, 1, 3, 64), np.float32))
    assert message(error) == f"features autoencoder {needs}"
    with pytest.raises(ValueError) as error:
        registry.open_features("autoencoder", vae=net, scale=np.ones((2, 1, 3, 64), np.float32), n=0)
    assert message(error) == "n, the number of features, must be at least 1; got 0"
    with pytest.raises(ValueError) as error:
        encoder_module.calibrate(net, scans[0][:3])
    assert message(error) == "calibration needs at least 4 volumes, better 32; got 3"
    with pytest.raises(ValueError) as error:
        encoder_module.calibrate(net, scans[0][[0] * 4])
    assert message(error) == "all 4 calibration volumes are equal; use scans of different participants"
    with pytest.raises(ValueError) as error:
        registry.open_features("radimagenet", weights=radimagenet, centre=0)
    assert message(error) == "centre, the fraction of slices, must be above 0 and at most 1; got 0"
    with pytest.raises(ValueError) as error:
        backbones.middle(torch.zeros(4, 4, 31), 2, 0.01)
    assert message(error) == "centre 0.01 leaves none of 31 slices; raise it"


def test_missing_weights_are_named_with_their_source_and_key(tmp_path):
    path = tmp_path / "absent.pth"
    with pytest.raises(FileNotFoundError) as error:
        registry.open_features("radimagenet", weights=path, sha256="ab12")
    assert message(error) == (
        f"no weights of features radimagenet at {path} (config key evaluation.features, weights of radimagenet; "
        "SHA-256 ab12). Download RadImageNet-ResNet50_notop.pth of Warvito/radimagenet-models (torch.hub "
        "radimagenet_resnet50), or remove radimagenet from evaluation.features"
    )
    with pytest.raises(FileNotFoundError, match="no weights of features radimagenet at no path given"):
        registry.open_features("radimagenet")


def test_weights_of_another_network_are_refused(tmp_path, radimagenet):
    state = torch.load(radimagenet, weights_only=True)
    refusal = f"{tmp_path / 'x.pth'} is not {backbones.ORIGINS['radimagenet']}"

    def refused(**changes):
        torch.save({k: v for k, v in {**state, **changes}.items() if v is not None}, tmp_path / "x.pth")
        with pytest.raises(ValueError) as error:
            registry.open_features("radimagenet", weights=tmp_path / "x.pth")
        return message(error)

    bias = {"conv1.bias": None, "other": torch.zeros(1)}
    assert refused(**bias) == f"{refusal}: missing ['conv1.bias'], unknown ['other']"
    wanted = f"{refusal}: bn1.weight has shape (3,), expected (64,)"
    assert refused(**{"bn1.weight": torch.ones(3)}) == wanted
    damaged = f"{refusal}: bn1.weight holds values that are not finite"
    assert refused(**{"bn1.weight": torch.full((64,), torch.nan)}) == damaged
    with pytest.raises(
        ValueError, match=f"has SHA-256 {hashlib.sha256(radimagenet.read_bytes()).hexdigest()}, expected"
    ):
        registry.open_features("radimagenet", weights=radimagenet, sha256="ab12")


def test_a_file_with_code_or_without_tensors_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": Path("run me")}, path)
    with pytest.raises(ValueError) as error:
        registry.open_features("radimagenet", weights=path)
    assert message(error) == f"{path} cannot be read as weights (UnpicklingError)"
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError) as error:
        registry.open_features("radimagenet", weights=path)
    assert message(error) == f"{path} holds no state dict of tensors; expected {backbones.ORIGINS['radimagenet']}"
