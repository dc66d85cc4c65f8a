"""A packed run: identical volumes in a new process, and no weights of other publishers."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neuromf.core import seeds
from neuromf.meanflow import sample
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.run import build_network, load_run, save_run
from neuromf.report.release import package
from neuromf.vae import maisi
from neuromf.vae.weights import build_autoencoder, save_weights
from workflow_scripts import export as script

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}
SHAPE = (4, 4, 4, 4)
STATS = {"mean": [1.0, -2.0, 0.0, 5.0], "std": [0.5, 1.0, 3.0, 0.1], "shape": list(SHAPE), "n": 6}
SAMPLING = {"nfe": 1, "seed": 3, "sampler": "meanflow", "batch": 2, "spacing_mm": 5.0, "precision": "float32"}
AUTOENCODER = {"weights": "packaged", "steps": 0, "sha256": None, "url": None, "licence": None}
README = Path(__file__).parents[2] / "README.md"


def trained(prediction="x", n_axes=3, velocity_head=False):
    base = GaussianPrior.fit(seeds.noise(8, list(range(6)), SHAPE), n_axes) if prediction == "x" else None
    u = build_network(NET, prediction, prior=base, velocity_head=velocity_head)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.2, generator=seeds.generator("test", 0))
    return u.requires_grad_(False).eval()


@pytest.fixture
def model(tmp_path):
    def make(**kind):
        nets = {"ema": trained(**kind), "online": trained(**kind)}
        save_run(tmp_path / "model.pt", nets, early=torch.zeros(1, *SHAPE), net=NET, stats=STATS)
        return tmp_path / "model.pt"

    return make


@pytest.fixture(scope="module")
def autoencoder():
    return build_autoencoder(maisi.COMPACT, None, seed=0)


def pack(model, autoencoder, folder, decoder=None):
    decoder = decoder or package.terms(AUTOENCODER, model)
    provenance = {"study": "small", "run": "meanflow"}
    run = load_run(model)
    package.pack(run, NET, autoencoder, folder, decoder=decoder, sampling=SAMPLING, provenance=provenance)
    return folder


@pytest.mark.parametrize("kind", [{}, {"prediction": "u"}, {"velocity_head": True}, {"n_axes": 0}], ids=str)
def test_a_packed_run_gives_the_samples_of_the_stored_run(tmp_path, model, autoencoder, kind):
    path = model(**kind)
    packed = load_run(pack(path, autoencoder, tmp_path / "export"))
    stored = load_run(path)
    assert packed.shape == stored.shape == SHAPE
    drawn = [sample.sample_batch(run, [0, 1], nfe=2, seed=3) for run in (packed, stored)]
    assert torch.equal(*drawn) and drawn[0].std() > 0.1


def test_a_packed_decoder_decodes_like_the_autoencoder_and_refuses_to_encode(tmp_path, model, autoencoder):
    decoder = package.load_decoder(pack(model(), autoencoder, tmp_path / "export"))
    latent = seeds.noise(1, [0], SHAPE)
    assert torch.equal(decoder.decode(latent), autoencoder.decode(latent))
    assert not any(weight.requires_grad for weight in decoder.parameters())
    with pytest.raises(ValueError, match="contains only the decoder"):
        decoder.encode(torch.zeros(1, 1, 16, 16, 16))


def test_the_example_reproduces_the_volumes_of_the_study_in_a_new_process(tmp_path, model, autoencoder):
    path = model()
    pack(path, autoencoder, tmp_path / "results" / "export")
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sample.write_samples(load_run(path), autoencoder, tmp_path / "expected", n=4, **SAMPLING)
    finally:
        torch.set_num_threads(torch_threads)
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(README.parent), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", package.EXAMPLE], cwd=tmp_path, env=env, check=True)
    names = sorted(file.name for file in (tmp_path / "expected").glob("*.nii.gz"))
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "brains" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_the_readme_shows_the_tested_example():
    assert len(list(filter(None, package.EXAMPLE.splitlines()))) == 5
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "load_decoder" in block
    ]
    if not blocks:
        pytest.skip("the README does not show the example")
    assert blocks == [package.EXAMPLE]


def test_the_same_run_gives_the_same_bytes(tmp_path, model, autoencoder):
    path = model()
    a, b = (pack(path, autoencoder, tmp_path / name) for name in "ab")
    assert sorted(file.name for file in a.iterdir()) == ["config.json", "weights.safetensors"]
    for file in a.iterdir():
        assert file.read_bytes() == (b / file.name).read_bytes()


@pytest.mark.parametrize("weights, included", [("packaged", True), (None, True), ("/data/autoencoder_v1.pt", False)])
def test_only_own_weights_are_packed(tmp_path, weights, included):
    (tmp_path / "vae.safetensors").write_bytes(b"weights")
    assert package.terms(AUTOENCODER | {"weights": weights}, tmp_path / "vae.safetensors")["included"] is included


def test_published_weights_are_named_by_file_address_and_digest(tmp_path):
    (tmp_path / "autoencoder_v1.pt").write_bytes(b"theirs")
    (tmp_path / "vae.safetensors").write_bytes(b"converted")
    settings = AUTOENCODER | {
        "weights": str(tmp_path / "autoencoder_v1.pt"),
        "url": "https://example.org/v1",
        "licence": {"name": "L"},
    }
    found = package.terms(settings, tmp_path / "vae.safetensors")
    assert (found["file"], found["address"]) == ("autoencoder_v1.pt", "https://example.org/v1")
    assert found["sha256"] == hashlib.sha256(b"theirs").hexdigest()
    further = package.terms(
        settings | {"steps": 5}, tmp_path / "vae.safetensors"
    )  # trained further: cannot be downloaded
    assert further["sha256"] == hashlib.sha256(b"converted").hexdigest() and further["address"] is None


def test_a_folder_without_decoder_names_the_file_and_checks_it(tmp_path, model, autoencoder):
    theirs = tmp_path / "theirs.safetensors"
    save_weights(autoencoder, theirs)
    terms = package.terms(AUTOENCODER | {"weights": str(theirs), "url": "https://example.org/v1"}, theirs)
    folder = pack(model(), autoencoder, tmp_path / "export", decoder=terms)
    assert not any(name.startswith("decoder.") for name in load_file(folder / "weights.safetensors"))
    with pytest.raises(FileNotFoundError, match=rf"example.org/v1 \(SHA-256 {terms['sha256']}\)"):
        package.load_decoder(folder)
    latent = seeds.noise(1, [0], SHAPE)
    assert torch.equal(package.load_decoder(folder, theirs).decode(latent), autoencoder.decode(latent))
    theirs.write_bytes(theirs.read_bytes() + b" ")
    with pytest.raises(ValueError, match="another file"):
        package.load_decoder(folder, theirs)


def test_a_folder_without_packed_run_is_refused(tmp_path, model, autoencoder):
    with pytest.raises(FileNotFoundError, match="no config.json and no weights.safetensors"):
        load_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a run packed"):
        package.sampling(tmp_path)
    folder = pack(model(), autoencoder, tmp_path / "export")
    with pytest.raises(ValueError, match="the weights ema only; load .online."):
        load_run(folder, "online")


def test_damaged_weights_are_refused(tmp_path, model, autoencoder):
    folder = pack(model(), autoencoder, tmp_path / "export")
    damaged = bytearray((folder / "weights.safetensors").read_bytes())
    damaged[-3] ^= 1
    (folder / "weights.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match="copy the folder again"):
        load_run(folder)


def test_sampling_settings_are_changed_by_name(tmp_path, model, autoencoder):
    folder = pack(model(), autoencoder, tmp_path / "export")
    assert package.sampling(folder) == SAMPLING
    assert package.sampling(folder, seed=9)["seed"] == 9
    with pytest.raises(ValueError, match="unknown sampling settings: step"):
        package.sampling(folder, step=2)


def test_the_script_packs_the_run_with_card_and_licences(tmp_path, model, autoencoder, small_study, monkeypatch):
    save_weights(autoencoder, tmp_path / "vae.safetensors")
    samples = {"n": 4, "nfe": [1, 4], "seed": 3, "sampler": "meanflow", "batch": 2, "precision": "float32"}
    cfg = {"study": "small", "run": "meanflow", "source": "embedded", "spacing_mm": 5.0, "samples": samples,
           "threads": 1, "autoencoder": AUTOENCODER, "phases": [0, 4]}  # fmt: skip
    out = small_study / "export"
    monkeypatch.chdir(small_study.parent)
    script.main(["--model", str(model()), "--weights", str(tmp_path / "vae.safetensors"), "--inputs", "results",
                 "--config", json.dumps(cfg), "--code", "abc", "--out", str(out)])  # fmt: skip
    names = {"weights.safetensors", "config.json", "card.json", "README.md", "LICENSE.md"}
    assert {file.name for file in out.iterdir()} == names
    card = json.loads((out / "card.json").read_text())
    assert card["about"]["shape"] == [16, 16, 16] and [gate["phase"] for gate in card["gates"]] == [0, 4]
    assert card["about"]["sampling"] == SAMPLING
    assert f"```python\n{package.EXAMPLE}```" in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["code"] == "abc"
    assert load_run(out).shape == SHAPE
