"""Features of deepbet: the network is that of the package, only arrays of its file are read, controls are in order."""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.core import files
from neuromf.metrics import controls
from neuromf.metrics.distances import frechet
from neuromf.metrics.features import deepbet, hashing, registry
from neuromf.metrics.table import row, set_columns
from neuromf.simulation import brains

try:
    metadata.version("deepbet")
    MISSING = False
except metadata.PackageNotFoundError:
    MISSING = True
STAGES = ("down0", "down1", "down2", "down3")
needs_deepbet = pytest.mark.skipif(MISSING, reason="deepbet is not installed: pip install 'neuromf[features]'")


def participants(numbers):
    """Simulated brains at 4 mm, axes left-right, posterior-anterior, inferior-superior: (N, 44, 52, 40)."""
    grid = {"shape": (52, 40, 44), "spacing_mm": (4.0, 4.0, 4.0)}
    scans = [brains.simulate_scan(k, seed=7, variation=brains.Variation(), **grid)[0] for k in numbers]
    return np.stack(scans).transpose(0, 3, 1, 2)[:, ::-1, ::-1].astype(np.float32)


@pytest.fixture(scope="module")
def features():
    return registry.open_features("deepbet")


@pytest.fixture(scope="module")
def scans():
    return participants(range(4))


# --- the network -------------------------------------------------------------------------------------


@needs_deepbet
def test_the_encoder_is_that_of_the_package():
    """Reference: the TorchScript module itself, which the library never loads."""
    path = deepbet.find_weights()
    script, net = torch.jit.load(path).eval(), deepbet.load_encoder(path)
    names = [name for name, _ in script.named_parameters() if name.split(".")[0] in ("init", *STAGES)]
    assert len(names) == len(net.state_dict()) == 20
    x = torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    relu, expected = getattr(script.conv, "2"), x
    with torch.no_grad():
        for stage in ("init", *STAGES):
            expected = getattr(script, stage)(relu, expected)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


def test_the_bottleneck_has_128_channels_and_a_stride_of_32():
    net = deepbet.encoder_net().eval()
    with torch.no_grad():
        assert net(torch.rand(2, 1, 64, 96, 64)).shape == (2, 128, 2, 3, 2)
    assert sum(weight.numel() for weight in net.parameters()) == 2_076_016


def test_the_input_is_resized_clipped_and_standardised():
    volume = torch.rand(40, 52, 44, generator=torch.Generator().manual_seed(0))
    volume[0, 0, 0] = 50.0  # an outlier above the 99.5 % quantile does not change the scale
    x = deepbet.network_input(volume)
    assert x.shape == (1, 1, *[deepbet.SIDE] * 3)
    torch.testing.assert_close(x.mean(), torch.tensor(0.449), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.std(), torch.tensor(0.226), rtol=0, atol=1e-4)
    assert (x.max() - x.min()) < 8 * 0.226
    torch.testing.assert_close(deepbet.network_input(3 * volume + 1), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_constant_volume_has_a_finite_input(value):
    assert torch.isfinite(deepbet.network_input(torch.full((16, 20, 16), value))).all()


# --- features ----------------------------------------------------------------------------------------


@needs_deepbet
def test_features_are_deterministic_and_do_not_depend_on_the_set(features, scans):
    both, second = features(scans[:2])[""], features(scans[1:2])[""]
    assert features.name == "deepbet-512" and both.shape == (2, 1, 512) and both.dtype == np.float32
    np.testing.assert_array_equal(both[1:], second)
    np.testing.assert_array_equal(registry.open_features("deepbet")(scans[:1])[""], both[:1])
    other = registry.open_features("deepbet", n=64, seed=1)
    assert other.name == "deepbet-64" and other(scans[:1])[""].shape == (1, 1, 64)


@needs_deepbet
def test_features_see_a_mirrored_brain_and_hardly_a_change_of_brightness(features, scans):
    x, mirrored, brighter = (features(v[:1])[""].ravel() for v in (scans, scans[:, ::-1], 0.5 * scans))
    assert np.linalg.norm(x - brighter) < 0.01 * np.linalg.norm(x - mirrored)


@pytest.mark.slow
@needs_deepbet
def test_the_frechet_distance_puts_the_controls_of_simulated_brains_in_order(features):
    train, test = participants(range(8)), participants(range(8, 13))
    known, rows = features(train)[""][:, 0], []
    for name, volumes in controls.control_sets(test, block=8).items():
        x = features(volumes)[""][:, 0] if name != "mean" else features(volumes[:1])[""][:, 0].repeat(len(test), 0)
        distance = frechet.frechet_distance(known, x)
        rows.append({**set_columns(name), **row("frechet", distance, len(x), features=features.name)})
    (verdict,) = controls.order_rows(pd.DataFrame(rows))
    assert verdict["metric"] == "ordered_frechet" and verdict["value"] == 1, rows


def test_hashing_sums_every_value_once_and_preserves_squared_lengths():
    project = hashing.FeatureHashing(6, n=2, seed=0)
    columns = torch.stack([project(one) for one in torch.eye(6)])
    scale = (2 / 6) ** 0.5
    np.testing.assert_allclose(columns.abs().sum(1), np.full(6, scale), rtol=1e-6)
    assert torch.equal((columns != 0).sum(1), torch.ones(6, dtype=torch.long))
    x = torch.randn(400, 9000, generator=torch.Generator().manual_seed(0))
    project = hashing.FeatureHashing(9000, n=512, seed=0)
    ratios = torch.stack([project(one) for one in x]).square().sum(1) / (x.square().sum(1) * 512 / 9000)
    np.testing.assert_allclose(ratios.mean(), 1, atol=0.02)


# --- security and errors -----------------------------------------------------------------------------


@needs_deepbet
def test_no_code_of_the_package_or_of_its_file_runs(monkeypatch, scans):
    def refuse(*args, **kwargs):
        raise AssertionError("not allowed")

    for name in ("torch.load", "torch.jit.load", "pickle.load", "pickle.loads"):
        monkeypatch.setattr(name, refuse)
    before = set(sys.modules)
    registry.open_features("deepbet")(scans[:1])
    assert not [name for name in set(sys.modules) - before if name.split(".")[0] == "deepbet"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ModuleNotFoundError) as error:
        registry.open_features("deepbet")
    assert str(error.value) == (
        "evaluation.features has deepbet, which needs the package deepbet: pip install 'neuromf[features]', "
        "or remove deepbet from evaluation.features"
    )


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_other_weights_are_refused(monkeypatch, tmp_path, content):
    class Installed:
        def locate_file(self, name):
            return tmp_path / Path(name).name

    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    found = files.sha256(tmp_path / "model.pt") if content is not None else "missing"
    with pytest.raises(ValueError) as error:
        registry.open_features("deepbet")
    assert str(error.value) == (
        f"the weights of deepbet, {tmp_path / 'model.pt'}, have SHA-256 {found}, expected {deepbet.SHA256}: "
        "pip install deepbet==1.0.2"
    )


def test_no_features_are_refused():
    with pytest.raises(ValueError, match="n, the number of features, must be at least 1; got 0"):
        deepbet.Deepbet(n=0)
