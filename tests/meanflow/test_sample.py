"""Sampling: independence of the batch, storage of runs, baselines, NIfTI output, resumption."""

import json
import subprocess
import sys

import nibabel as nib
import nilearn.image
import numpy as np
import pytest
import torch

from neuromf.core import seeds
from neuromf.data import nifti, participants
from neuromf.meanflow import baselines, flow
from neuromf.meanflow import sample as meanflow_sample
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.run import Run, build_network, load_run, save_run
from neuromf.vae import maisi, weights
from workflow_scripts import sample

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}
SHAPE = (4, 4, 4, 4)
STATS = {"mean": [1.0, -2.0, 0.0, 5.0], "std": [0.5, 1.0, 3.0, 2.0], "shape": list(SHAPE)}
SPREAD, CENTRE = (torch.tensor(STATS[name]).view(1, 4, 1, 1, 1) for name in ("std", "mean"))


def awake(prediction="x", seed=0, **kind):
    """A network with a random last layer, which is zero at initialisation."""
    u = build_network(NET, prediction, seed=seed, **kind)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.2, generator=seeds.generator("test", seed))
    return u.requires_grad_(False).eval()


def still(z, t, r):
    return torch.zeros_like(z)


def to_zero(z, t, r):
    """The average velocity of data that is zero: u(z, t, r) = z / t."""
    return z / flow.expand_as(t, z)


@pytest.fixture(scope="module")
def decoder():
    return weights.build_autoencoder(maisi.COMPACT, None, seed=0)


@pytest.fixture
def stored(tmp_path):
    """Path of a stored run, its networks and its early samples."""
    prior, early = GaussianPrior.fit(seeds.noise(8, list(range(6)), SHAPE), 3), seeds.noise(9, [0, 1, 2], SHAPE)
    nets = {kind: awake(seed=k, prior=prior, velocity_head=True) for k, kind in enumerate(("ema", "online", "ema-500"))}
    save_run(tmp_path / "model.pt", nets, early=early, net=NET, stats=STATS)
    return tmp_path / "model.pt", nets, early


def test_the_noise_of_a_sample_depends_on_seed_and_number_only():
    whole = seeds.noise(7, [0, 1, 2, 3], SHAPE)
    assert torch.equal(seeds.noise(7, [2], SHAPE)[0], whole[2])
    assert torch.equal(seeds.noise(7, [3, 1], SHAPE), whole[[3, 1]])
    assert not torch.equal(seeds.noise(8, [2], SHAPE)[0], whole[2])
    assert len({float(one.sum()) for one in whole}) == 4


@pytest.mark.parametrize("batch", [1, 3, 5, 16])
def test_with_zero_velocity_latents_are_their_noise_for_any_batch(batch):
    latents = meanflow_sample.sample_latents(Run(still, STATS, SHAPE), n=5, nfe=1, seed=7, batch=batch)
    assert torch.equal(latents, seeds.noise(7, list(range(5)), SHAPE) * SPREAD + CENTRE)


@pytest.mark.parametrize("nfe", [1, 4])
def test_latents_are_denormalised(nfe):
    """Normalised zero is the mean of each channel."""
    latents = meanflow_sample.sample_latents(Run(to_zero, STATS, SHAPE), n=3, nfe=nfe, seed=0, batch=2)
    torch.testing.assert_close(latents, CENTRE.expand(3, *SHAPE), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("prediction", "nfe"), [("x", 1), ("u", 1), ("x", 3)])
def test_a_sample_is_the_same_for_any_batch(prediction, nfe):
    run = Run(awake(prediction), STATS, SHAPE)
    whole = meanflow_sample.sample_latents(run, n=5, nfe=nfe, seed=3, batch=5)
    assert whole.shape == (5, *SHAPE) and whole.isfinite().all()
    for batch in (1, 2):
        latents = meanflow_sample.sample_latents(run, n=5, nfe=nfe, seed=3, batch=batch)
        torch.testing.assert_close(latents, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        meanflow_sample.sample_latents(run, n=2, nfe=nfe, seed=3), whole[:2], rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(meanflow_sample.sample_latents(run, n=5, nfe=nfe, seed=4), whole)


@pytest.mark.parametrize("sampler", flow.SAMPLERS)
def test_latents_are_drawn_by_the_given_sampler(sampler):
    run = Run(awake("u"), STATS, SHAPE)
    solve = {"meanflow": flow.sample, "euler": flow.euler}[sampler]
    expected = solve(run.u, seeds.noise(3, [0, 1], SHAPE), flow.uniform_times(4)) * SPREAD + CENTRE
    torch.testing.assert_close(meanflow_sample.sample_latents(run, n=2, nfe=4, seed=3, sampler=sampler), expected)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_sample_that_is_not_finite_is_an_error(batch):
    def wild(z, t, r):
        return z / 0 if batch == 1 else torch.where(torch.arange(len(z)).view(-1, 1, 1, 1, 1) == 2, torch.nan, z)

    number = 0 if batch == 1 else 2
    with pytest.raises(ValueError, match=rf"samples \[{number}\] of seed 7 are not finite \(nfe=1, sampler=meanflow\)"):
        meanflow_sample.sample_latents(Run(wild, STATS, SHAPE), n=4, nfe=1, seed=7, batch=batch)


def test_fresh_weights_depend_on_their_seed_and_leave_the_global_random_state_unchanged():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_network(NET, "x", seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_loaded_run_has_the_output_of_the_saved_one(stored):
    path, nets, _ = stored
    z, t, r = seeds.noise(0, [0, 1], SHAPE), torch.tensor([1.0, 0.6]), torch.tensor([0.0, 0.3])
    for kind, net in nets.items():
        run = load_run(path, kind)
        assert torch.equal(run.u.outputs(z, t, r), net.outputs(z, t, r))
        assert (run.stats, run.shape, run.u.prediction) == (STATS, SHAPE, "x")
        assert not run.u.training and not any(p.requires_grad for p in run.u.parameters())
    assert torch.equal(load_run(path).u(z, t, r), nets["ema"](z, t, r))
    assert not torch.allclose(nets["ema"](z, t, r), nets["online"](z, t, r))


def test_baselines_are_other_weights_the_prior_and_early_samples(stored):
    path, nets, early = stored
    latents = baselines.baseline_latents(path, n=2, seed=4)
    assert latents.keys() == {"online", "ema-500", "early", "prior"}
    for kind in ("online", "ema-500"):
        expected = meanflow_sample.sample_latents(Run(nets[kind], STATS, SHAPE), n=2, nfe=1, seed=4)
        torch.testing.assert_close(latents[kind], expected)
    torch.testing.assert_close(latents["early"], early * SPREAD + CENTRE)
    one_step = nets["ema"].prior(seeds.noise(4, [0, 1], SHAPE), torch.ones(2), torch.zeros(2))
    torch.testing.assert_close(latents["prior"], one_step * SPREAD + CENTRE)


def test_baselines_are_drawn_by_the_given_sampler(stored):
    path, nets, _ = stored
    expected = meanflow_sample.sample_latents(Run(nets["online"], STATS, SHAPE), n=2, nfe=1, seed=4, sampler="euler")
    torch.testing.assert_close(baselines.baseline_latents(path, n=2, seed=4, sampler="euler")["online"], expected)


def test_a_run_with_u_prediction_has_no_prior(tmp_path):
    nets = {"ema": awake("u"), "online": awake("u", 1)}
    save_run(tmp_path / "model.pt", nets, early=seeds.noise(9, [0], SHAPE), net=NET, stats=STATS)
    assert baselines.baseline_latents(tmp_path / "model.pt", n=2).keys() == {"online", "early"}


def drawn(path):
    return torch.load(path / "latents.pt", weights_only=True, mmap=True)


def test_volumes_are_nifti_in_ras_with_their_spacing_around_the_origin(decoder, tmp_path):
    latent = 3 * seeds.noise(0, [0], (4, 3, 4, 5))
    meanflow_sample.write_sample(decoder, latent[0], tmp_path / "one.nii.gz", spacing_mm=2.5)
    image = nib.load(tmp_path / "one.nii.gz")
    assert image.shape == (12, 16, 20) and nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.get_data_dtype() == np.int16 and [image.header[code] for code in ("sform_code", "qform_code")] == [
        1,
        1,
    ]
    np.testing.assert_allclose(image.header.get_zooms(), 2.5)
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, (5.5, 7.5, 9.5)), 0, atol=1e-5)
    volume = image.get_fdata(dtype=np.float32)
    assert volume.min() >= 0 and volume.max() <= 1 and np.ptp(volume) > 0.1
    np.testing.assert_allclose(volume, decoder.decode(latent)[0, 0].clamp(0, 1).numpy(), rtol=0, atol=2e-5)


def test_left_is_left_in_nilearn(tmp_path):
    """A block that is brighter on the left, at the front and at the top, encoded and decoded."""
    net, volume = weights.load(weights.PACKAGED), torch.zeros(1, 1, 32, 48, 40)
    volume[..., 4:28, 4:44, 4:36] = 0.4
    volume[..., 4:12, 34:44, 28:36] = 0.9
    meanflow_sample.write_sample(net, net.encode(volume)[0][0], tmp_path / "one.nii.gz", spacing_mm=2.5)
    image = nilearn.image.load_img(tmp_path / "one.nii.gz")
    bright = np.argwhere(image.get_fdata() > 0.95)  # the autoencoder raises the contrast of flat boxes
    middle = nib.affines.apply_affine(image.affine, bright).mean(0)
    assert middle[0] < -10 and middle[1] > 20 and middle[2] > 15  # mm; the centre of the block is (-20, 37.5, 30)


def test_a_folder_of_samples_has_volumes_latents_a_table_and_a_card(decoder, tmp_path):
    run, out = Run(awake(), STATS, SHAPE), tmp_path / "nfe-2"
    meanflow_sample.write_samples(run, decoder, out, n=5, nfe=2, seed=3, batch=2, spacing_mm=2.0)
    files = [f"{number:05d}.nii.gz" for number in range(5)]
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *files,
        "card.json",
        "latents.pt",
        "nfe-2",
        "samples.tsv",
    ]
    assert participants.read_table(out / "samples.tsv").to_dict("list") == {
        "number": list("01234"),
        "participant_id": [f"sample-{number:05d}" for number in range(5)],
        "seed": ["3"] * 5,
        "nfe": ["2"] * 5,
        "sampler": ["meanflow"] * 5,
        "file": [str(out / file) for file in files],
    }
    assert torch.equal(drawn(out), meanflow_sample.sample_latents(run, n=5, nfe=2, seed=3, batch=2))
    card = json.loads((out / "card.json").read_text())
    assert (card["n"], card["nfe"], card["weights"]) == (5, 2, meanflow_sample.digest(run.u, decoder))


def test_a_volume_can_be_reproduced_from_its_row(decoder, tmp_path):
    run, out = Run(awake(), STATS, SHAPE), tmp_path / "nfe-2"
    meanflow_sample.write_samples(run, decoder, out, n=4, nfe=2, seed=3, spacing_mm=2.0, sampler="euler")
    row = participants.read_table(out / "samples.tsv").iloc[2]
    sampling = {"nfe": int(row["nfe"]), "seed": int(row["seed"]), "sampler": row["sampler"]}
    (latent,) = meanflow_sample.sample_batch(run, [int(row["number"])], **sampling)
    meanflow_sample.write_sample(decoder, latent, tmp_path / "again.nii.gz", spacing_mm=2.0)
    expected, again = (nifti.read_volume(file)[0] for file in (row["file"], tmp_path / "again.nii.gz"))
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-4)
    assert np.abs(nifti.read_volume(out / "00001.nii.gz")[0] - expected).max() > 0.01


def stopped(monkeypatch, at):
    """Interrupt the run while volume `at` is written; returns the list of decoded volumes."""
    decoded, write_sample = [], meanflow_sample.write_sample

    def write(net, latent, file, **kind):
        if file.name == f"{at:05d}.nii.gz":
            file.with_name(f".9.{file.name}").write_text("half")
            raise KeyboardInterrupt
        decoded.append(int(file.name[:5]))
        write_sample(net, latent, file, **kind)

    monkeypatch.setattr(meanflow_sample, "write_sample", write)
    return decoded


def test_an_interrupted_run_resumes_to_the_same_bytes(decoder, tmp_path, monkeypatch):
    run, how = Run(awake(), STATS, SHAPE), {"n": 5, "nfe": 1, "seed": 3, "batch": 2, "spacing_mm": 2.0}
    meanflow_sample.write_samples(run, decoder, tmp_path / "whole", **how)
    with monkeypatch.context() as patch:
        stopped(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            meanflow_sample.write_samples(run, decoder, tmp_path / "nfe-1", **how)
    assert not (tmp_path / "nfe-1").exists()
    decoded = stopped(monkeypatch, at=-1)
    meanflow_sample.write_samples(run, decoder, tmp_path / "nfe-1", **how)
    assert decoded == [3, 4]
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in (tmp_path / "nfe-1").iterdir()}
    for name in names - {"samples.tsv"}:  # contains the name of the folder
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "nfe-1" / name).read_bytes(), name


@pytest.mark.parametrize("change", ["seed", "weights", "decoder", "code", "spacing_mm"])
def test_volumes_with_other_provenance_are_not_reused(decoder, tmp_path, monkeypatch, change):
    how = {"n": 3, "nfe": 1, "seed": 3, "spacing_mm": 2.0, "code": "a"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, at=2)
        meanflow_sample.write_samples(Run(awake(), STATS, SHAPE), decoder, tmp_path / "nfe-1", **how)
    decoded = stopped(monkeypatch, at=-1)
    run = Run(awake(seed=int(change == "weights")), STATS, SHAPE)
    net = weights.build_autoencoder(maisi.COMPACT, None, seed=1) if change == "decoder" else decoder
    how |= {"seed": {"seed": 4}, "code": {"code": "b"}, "spacing_mm": {"spacing_mm": 2.5}}.get(change, {})
    meanflow_sample.write_samples(run, net, tmp_path / "nfe-1", **how)
    assert decoded == [0, 1, 2]


def test_samples_replace_only_samples(decoder, tmp_path):
    run, how = Run(awake(), STATS, SHAPE), {"nfe": 1, "seed": 3, "spacing_mm": 2.0}
    for n in (3, 2):
        meanflow_sample.write_samples(run, decoder, tmp_path / "nfe-1", n=n, **how)
    assert len(participants.read_table(tmp_path / "nfe-1" / "samples.tsv")) == len(drawn(tmp_path / "nfe-1")) == 2
    assert not (tmp_path / "nfe-1" / "00002.nii.gz").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="mine contains files other than samples, which would be deleted; choose"):
        meanflow_sample.write_samples(run, decoder, tmp_path / "mine", n=2, **how)
    assert (tmp_path / "mine" / "thesis.tex").exists()


FLAT = """
import workflow_scripts  # before MONAI, as in a job
import resource, sys, torch
from pathlib import Path
from neuromf.meanflow.run import Run, build_network
from neuromf.meanflow.sample import write_samples
from neuromf.vae import maisi, weights
torch.set_num_threads(1)
shape = (4, 10, 10, 10)
net = dict(widths=[8, 16], res_blocks=1, attention=[False, False], head_width=8, norm_groups=4, patch=1)
stats = {"mean": [0.0] * 4, "std": [1.0] * 4}
run = Run(build_network(net, "u").eval().requires_grad_(False), stats, shape)
decoder, peaks = weights.build_autoencoder(maisi.COMPACT, None, seed=0), []
for n in (8, 8, 64):
    write_samples(run, decoder, Path(sys.argv[1]) / str(n), n=n, nfe=1, seed=0, spacing_mm=1.0, batch=4)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
print(*peaks)
"""


def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path):
    """56 more volumes are 14 MB; the peaks differ by less."""
    done = subprocess.run([sys.executable, "-c", FLAT, str(tmp_path)], capture_output=True, text=True, check=True)
    _, few, many = map(float, done.stdout.split())
    assert len(list((tmp_path / "64").glob("*.nii.gz"))) == 64
    assert many - few < 5, f"{few:.0f} MB for 8 volumes, {many:.0f} MB for 64"


def test_the_script_generates_from_files(decoder, stored, tmp_path):
    weights.save_weights(decoder, tmp_path / "vae.safetensors")
    config = {"spacing_mm": 2.5, "sampler": "euler", "n": 3, "batch": 2, "seed": 5}
    line = ["--model", stored[0], "--weights", tmp_path / "vae.safetensors", "--nfe", 2]
    line += ["--out", tmp_path / "nfe-2", "--code", "a"]
    sample.main([*map(str, line), "--config", json.dumps(config)])
    expected = meanflow_sample.sample_latents(load_run(stored[0]), n=3, nfe=2, seed=5, sampler="euler")
    torch.testing.assert_close(drawn(tmp_path / "nfe-2"), expected)
    assert json.loads((tmp_path / "nfe-2" / "card.json").read_text())["code"] == "a"
