"""The generator as an ONNX file: what onnxruntime makes of it is what torch makes of the run."""

import builtins
import json

import pytest
import torch

from neuromf.core import seeds
from neuromf.meanflow import flow
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.run import Run, build_network
from neuromf.report.release import onnx
from neuromf.vae import maisi, statistics, weights
from workflow_scripts import onnx as script

NET = {"widths": [8, 8], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}
SHAPE = (4, 4, 4, 4)
STATS = {"mean": [0.1, -0.2, 0.0, 0.5], "std": [0.5, 1.0, 3.0, 2.0], "shape": list(SHAPE)}
BOUND = 1e-4  # of an intensity in [0, 1], as in the rule


@pytest.fixture(scope="module")
def run():
    base = GaussianPrior.fit(seeds.noise(8, list(range(6)), SHAPE), 3)
    u = build_network(NET, "x", prior=base, head=True)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.2, generator=seeds.generator("test", 0))
    return Run(u.requires_grad_(False).eval(), STATS, SHAPE)


@pytest.fixture(scope="module")
def autoencoder():
    net = weights.build_autoencoder(maisi.COMPACT, None, seed=0)
    torch.nn.init.constant_(net.net.decoder.blocks[-1].conv.conv.bias, 0.5)  # volumes within [0, 1], not clamped away
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def file(run, autoencoder, tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: {onnx.INSTALL}")
    path = tmp_path_factory.mktemp("onnx") / "generator.onnx"
    onnx.write(run, autoencoder, path, {"study": "small", "weights": "abc"})
    return path


def volume(run, autoencoder, eps):
    """What the library itself makes of noise, by its own layers."""
    drawn = statistics.denormalise(flow.sample(run.u, eps), run.stats)
    return autoencoder.decode(drawn).clamp(0, 1)


def test_the_module_that_is_written_is_the_generation_of_the_library(run, autoencoder):
    eps = seeds.noise(3, [5], SHAPE)
    wanted = volume(run, autoencoder, eps)
    assert wanted.std() > 0.01 and 0 < wanted.mean() < 1
    torch.testing.assert_close(onnx.Generator(run, autoencoder)(eps), wanted, rtol=0, atol=1e-5)


def test_writing_leaves_the_run_as_it_was(run, autoencoder):
    kinds = [type(module) for module in [*run.u.modules(), *autoencoder.modules()]]
    onnx.Generator(run, autoencoder)
    assert kinds == [type(module) for module in [*run.u.modules(), *autoencoder.modules()]]


def test_onnxruntime_makes_the_volumes_of_torch(file, run, autoencoder):
    found = onnx.check(file, run, autoencoder, seed=3, numbers=[5, 6])
    assert found["shape"] == [1, 1, 16, 16, 16] and found["n"] == 2
    assert 0 < found["max_error"] < BOUND


def test_the_check_sees_another_network(file, run, autoencoder):
    other = Run(run.u, {**STATS, "mean": [0.6, -0.2, 0.0, 0.5]}, SHAPE)
    assert onnx.check(file, other, autoencoder, seed=3, numbers=[5])["max_error"] > BOUND


def test_the_file_says_what_it_is_and_names_no_file_of_the_machine(file):
    import onnx as package

    model = package.load(file)
    assert {prop.key: prop.value for prop in model.metadata_props} == {"study": "small", "weights": "abc"}
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["eps", "volume"]
    assert b"/site-packages/" not in file.read_bytes() and b".py" not in file.read_bytes()


def test_a_file_too_far_from_torch_is_refused(tmp_path):
    found = {"max_error": 3e-3, "n": 1, "versions": {"onnxruntime": "1.0"}}
    with pytest.raises(ValueError, match="0.003 from torch at worst, at most 0.0001"):
        onnx.write_check(found, tmp_path / "check.json", BOUND)
    with pytest.raises(ValueError):
        onnx.write_check({**found, "max_error": float("nan")}, tmp_path / "check.json", BOUND)
    assert not (tmp_path / "check.json").exists()
    onnx.write_check({**found, "max_error": 3e-6}, tmp_path / "check.json", BOUND)
    assert json.loads((tmp_path / "check.json").read_text())["bound"] == BOUND


def test_without_the_packages_the_rule_says_what_to_install(monkeypatch, tmp_path):
    there = builtins.__import__

    def without(name, *rest, **more):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name, name=name)
        return there(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    names = ("model", "weights", "out", "check")
    argv = [text for name in names for text in (f"--{name}", str(tmp_path / name))]
    with pytest.raises(SystemExit, match=r"neuromf\[onnx\]"):
        script.main([*argv, "--config", "{}"])
