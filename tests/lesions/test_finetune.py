"""Fine-tuning on pairs: the base run is unchanged, the best weights are final, samples are pairs."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.core.seeds import noise
from neuromf.data.participants import write_table
from neuromf.lesions import finetune, network, prior
from neuromf.lesions import sample as pair_samples
from neuromf.lesions.mask_encoding import CHANNELS
from neuromf.lesions.run import load_pair_run, save_pair_run
from neuromf.meanflow import flow, sample
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.run import Run, build_network, load_run, save_run
from neuromf.nn import lora
from neuromf.training import trainer

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 2}
SHAPE = (4, 8, 8, 8)
PRIOR = {"axes": 3, "gaussian_fraction": 0.5, "mask_residual_variance": 0.1}
ADAPTER = {"rank": 2, "alpha": 2.0, "targets": "both"}
TIMES = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def run(tmp_path):
    """A trained run, loaded from its file."""
    base = GaussianPrior.fit(torch.randn(6, *SHAPE, generator=rng(1)), 3)
    u = build_network(NET, "x", prior=base, seed=0)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=rng(2))
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4, "shape": list(SHAPE)}
    save_run(tmp_path / "model.pt", {"ema": u}, early=torch.zeros(1), net=NET, stats=stats)
    return load_run(tmp_path / "model.pt")


def pairs(n, channels=5, seed=5):
    return torch.randn(n, channels, *SHAPE[1:], generator=rng(seed)) + 1


def with_adapters(run, x, kind="lesion", **adapter):
    pair_prior = prior.fit_pair_prior(run.u.prior, x, kind=kind, **PRIOR)
    return network.add_adapters(run.u, x.shape[1], prior=pair_prior, **{**ADAPTER, **adapter})


def pair_module(run, x, validation, **settings):
    usual = {"batch": 4, "lr": 1e-2, "seed": 3, "warmup": 1, "times": TIMES, "tangent": "predicted", "ema_images": [8]}
    usual |= {"steps": 6, "evaluate_every": 2, "patience": 9, "p": [1.5] * 4 + [2.0] * (x.shape[1] - 4)}
    return finetune.PairModule(with_adapters(run, x), x, validation, **{**usual, **settings})


def fit(module, folder, **settings):
    trainer.fit(module, checkpoint=folder / "last.ckpt", accelerator="cpu", **{"checkpoint_every": 2, **settings})
    return module


# --- the network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", prior.KINDS)
@pytest.mark.parametrize("channels", [5, 8])
def test_without_adapters_samples_are_those_of_the_base_run_bit_for_bit(run, kind, channels):
    u = with_adapters(run, pairs(9, channels), kind).eval()
    for parameter in (p for p in u.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1, generator=rng(4))
    eps = torch.randn(3, channels, *SHAPE[1:], generator=rng(6))
    with lora.without_adapters(u):
        base = flow.sample(u, eps)
    assert torch.equal(base[:, :4], flow.sample(run.u, eps[:, :4]))
    assert not torch.equal(flow.sample(u, eps)[:, :4], base[:, :4])


def test_fine_tuning_does_not_change_the_base_run(run, tmp_path):
    before = copy.deepcopy(run.u.state_dict())
    fit(pair_module(run, pairs(8), pairs(2, seed=9), steps=2), tmp_path)
    assert all(torch.equal(before[name], value) for name, value in run.u.state_dict().items())


def test_only_the_added_weights_are_trained_and_averaged(run):
    module = pair_module(run, pairs(8), pairs(2))
    trained = {name for name, p in module.u.named_parameters() if p.requires_grad}
    assert trained == set(lora.adapter_state(module.u))
    online, average = dict(module.u.named_parameters()), dict(module.ema.net.named_parameters())
    shared = {name for name in online if online[name] is average[name]}
    assert shared == online.keys() - trained


def test_the_prior_of_kind_pair_is_fitted_to_image_and_mask(run):
    x = pairs(9)
    fitted = prior.fit_pair_prior(run.u.prior, x, kind="pair", **PRIOR)
    assert torch.equal(fitted.mean, x.mean(0)) and len(fitted.variances) == PRIOR["axes"]
    assert fitted.axes.view(-1, *x.shape[1:])[:, 4:].any()
    assert prior.fit_pair_prior(run.u.prior, x, kind="none", **PRIOR) is None


def test_each_sample_of_the_lesion_prior_has_one_of_the_training_lesions(run):
    """Simulated lesions at different places add 4 to all image channels and 5 to the mask."""
    x = pairs(9) * torch.tensor([1.0] * 4 + [0.0]).view(5, 1, 1, 1)
    places = [(i, j, k) for i in (1, 4) for j in (1, 4) for k in (1, 4)] + [(6, 6, 6)]
    for one, (i, j, k) in zip(x, places, strict=True):
        one[:4, i, j, k], one[4, i, j, k] = one[:4, i, j, k] + 4, 5
    brains, lesions = prior.split_brain_and_lesion(x)
    torch.testing.assert_close(x.mean(0) + brains + lesions, x)
    assert not brains[:, 4:].any() and all(not brains[n, :, i, j, k].any() for n, (i, j, k) in enumerate(places))
    settings = {**PRIOR, "gaussian_fraction": 0.0, "mask_residual_variance": 1e-6}
    fitted = prior.fit_pair_prior(run.u.prior, x, kind="lesion", **settings)
    eps = torch.randn(64, *x.shape[1:], generator=rng(1))
    samples = fitted(eps, torch.ones(64), torch.zeros(64))
    masks = torch.stack([samples[:, 4, i, j, k] for i, j, k in places], 1)
    *_, second, first = masks.sort(1).values.T
    assert (first > 4).float().mean() > 0.9 and (second < 1).float().mean() > 0.9  # one lesion, no trace of others
    assert len(masks.argmax(1).unique()) == 9
    images = torch.stack([(samples - x.mean(0))[:, :4, i, j, k].mean(1) for i, j, k in places], 1)
    inside = images.gather(1, masks.argmax(1)[:, None])
    assert 2.5 < inside.mean() < 5 and abs(images.mean()) < 0.5


def test_wrong_settings_are_refused(run):
    with pytest.raises(ValueError, match="targets must be one of attention, convolutions, both; got 'all'"):
        with_adapters(run, pairs(5), targets="all")
    with pytest.raises(ValueError, match="prior.kind must be one of none, pair, lesion; got 'both'"):
        with_adapters(run, pairs(5), kind="both")
    with pytest.raises(ValueError, match="predicts u has no Gaussian prior to replace; set prior.kind to none"):
        prior.fit_pair_prior(None, pairs(5), kind="pair", **PRIOR)


# --- training ----------------------------------------------------------------------------------------


def test_the_best_weights_are_final_and_training_stops_without_improvement(run, tmp_path, monkeypatch):
    module, states = pair_module(run, pairs(8), pairs(2), steps=40, patience=3), []
    losses = iter([3.0, 1.0, 2.0, 2.5, 1.5, 0.1])

    def validation_losses(u):
        states.append({name: w.clone() for name, w in lora.adapter_state(u).items()})
        return {"validation": torch.tensor([next(losses)])}

    monkeypatch.setattr(module, "validation_losses", validation_losses)
    fit(module, tmp_path)
    assert len(states) == 5 and module.steps == module.global_step == 10 and module.best["step"] == 4
    assert all(torch.equal(w, states[1][name]) for name, w in lora.adapter_state(module.best_network()).items())
    assert not torch.equal(*(state["net.out.2.conv.added.weight"] for state in (states[1], states[4])))
    assert [row["validation"] for row in module.history] == [3.0, 1.0, 2.0, 2.5, 1.5]


def test_validation_losses_are_those_of_the_formula_at_fixed_times_and_noise(run):
    module = pair_module(run, pairs(8).double(), pairs(2).double())
    module.u.double(), module.ema.net.double()
    module.u.net.time_embed.double()
    losses = module.validation_losses(module.u)
    total, image, mask = (losses[f"validation{part}"] for part in ("", "_image", "_mask"))
    assert module.u.training and torch.equal(total, module.validation_losses(module.u)["validation"])
    assert len(total) == 2 * finetune.DRAWS
    torch.testing.assert_close(total, (4 * image + mask) / 5)
    x = module.validation.repeat_interleave(finetune.DRAWS, 0)
    eps = torch.randn(x.shape, generator=finetune.generator("held eps", 3)).to(x)
    t, r = flow.draw_times(len(x), finetune.generator("held times", 3), **TIMES)
    z, v = flow.training_path(x, eps, t, "x")
    tangent = flow.predicted_tangent(module.u, z, t, r)
    V = flow.implied_velocity(*flow.single_pass(module.u, z, t, r, tangent), t, r)
    torch.testing.assert_close(image, flow.raw_loss(V[:, :4], v[:, :4]), rtol=1e-4, atol=1e-5)


def test_without_validation_pairs_the_last_weights_are_final(run, tmp_path):
    module = fit(pair_module(run, pairs(8), pairs(0), steps=2), tmp_path)
    assert module.best["state"] == {} and module.best_network() is module.ema.net
    assert "validation" not in module.history[-1] and module.evaluate() == {}


class Killed(Exception):
    pass


def test_an_interrupted_fine_tuning_ends_with_the_bits_of_an_uninterrupted_one(run, tmp_path, monkeypatch):
    uninterrupted = fit(pair_module(run, pairs(8), pairs(2)), tmp_path / "uninterrupted")
    interrupted, step = pair_module(run, pairs(8), pairs(2)), finetune.PairModule.training_step

    def killed(self, *args):
        if self.global_step == 5:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(finetune.PairModule, "training_step", killed)
    with pytest.raises(Killed):
        fit(interrupted, tmp_path / "broken")
    monkeypatch.undo()
    resumed = fit(pair_module(run, pairs(8), pairs(2)), tmp_path / "broken")
    assert resumed.best["step"] == uninterrupted.best["step"] and resumed.best["loss"] == uninterrupted.best["loss"]
    assert pd.DataFrame(resumed.history).equals(pd.DataFrame(uninterrupted.history))
    weights, others = (lora.adapter_state(module.best_network()) for module in (uninterrupted, resumed))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


# --- files and samples -------------------------------------------------------------------------------


def write_latents(folder, x, split=None):
    stats = {"mean": [0.5] * x.shape[1], "std": [2.0] * x.shape[1], "mask_encoding": "level", "threshold": 0.5}
    split = ["train"] * (len(x) - 1) + ["val"] if split is None else split
    np.savez(folder / "level.npz", x=x.numpy(), split=np.array(split), stats=json.dumps(stats))
    return folder / "level.npz"


def test_pair_latents_are_read_normalised_and_by_split(tmp_path):
    x = pairs(5)
    train, validation, stats = finetune.read_pair_latents(
        write_latents(tmp_path, x, ["train", "train", "val", "train", "test"])
    )
    torch.testing.assert_close(train, (x[[0, 1, 3]] - 0.5) / 2)
    torch.testing.assert_close(validation, (x[[2]] - 0.5) / 2)
    assert stats["shape"] == [5, 8, 8, 8]


def test_latents_without_training_pair_or_with_nan_are_refused(tmp_path):
    x = pairs(3)
    with pytest.raises(ValueError, match=r"has no training pair, only \['val'\]"):
        finetune.read_pair_latents(write_latents(tmp_path, x, ["val"] * 3))
    x[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="has 1 values that are not finite"):
        finetune.read_pair_latents(write_latents(tmp_path, x))


@pytest.mark.parametrize("kind", ["none", "lesion"])
def test_the_entry_point_writes_a_run_that_loads_and_equals_the_returned_one(run, tmp_path, kind):
    write_latents(tmp_path, pairs(9))
    sections = {
        "adapter": ADAPTER,
        "prior": {"kind": kind, **PRIOR},
        "finetune": {"epochs": 2, "batch": 4, "lr": 1e-3, "p_image": 1.5, "p_mask": 2.0, "mask_weight": 4.0,
                     "patience": 5, "seed": 0},
        "flow": {"times": TIMES, "tangent": "predicted", "derivative": "single_pass", "adaptive_power": 1.0,
                 "adaptive_c": 0.01},
        "train": {"weight_decay": 0.0, "lr_end": 0.0, "ema_images": [8], "clip": 1.0, "precision": "32-true",
                  "checkpoint_every": 50},
    }  # fmt: skip
    out = tmp_path / "out"
    tuned = finetune.finetune(run=tmp_path / "model.pt", latents=tmp_path, mask_encoding="level", out=out, **sections)
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == sorted(
        ["adapter.safetensors", "gaussian.safetensors", "history.csv", "card.json"]
    )
    eps = torch.randn(2, *tuned.shape, generator=rng(1))
    assert torch.equal(flow.sample(load_pair_run(run, out).u, eps), flow.sample(tuned.u, eps))
    history, card = pd.read_csv(out / "history.csv"), json.loads((out / "card.json").read_text())
    assert history["step"].tolist() == [0, 2, 4] and history["validation"].notna().all()
    assert card["data"]["mask_encoding"] == "level" and card["config"]["prior"]["kind"] == kind
    assert card["trainable"] < card["total"] and card["best_step"] in (0, 2, 4) and card["stopped_at"] == 4


@pytest.mark.parametrize("kind", prior.KINDS)
def test_a_stored_run_generates_the_samples_of_the_trained_network(run, tmp_path, kind):
    x = pairs(8)
    u = with_adapters(run, x, kind)
    for parameter in (p for p in u.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1, generator=rng(4))
    files = tmp_path / "adapter.safetensors", tmp_path / "gaussian.safetensors"
    stats = {"mean": [0.0] * 5, "std": [1.0] * 5, "shape": list(x.shape[1:]), "threshold": 0.4}
    save_pair_run(u, tmp_path, stats=stats, **ADAPTER)
    first = [path.read_bytes() for path in files]
    loaded = load_pair_run(run, tmp_path)
    save_pair_run(u, tmp_path, stats=stats, **ADAPTER)
    assert [path.read_bytes() for path in files] == first
    drawn = sample.sample_latents(loaded, n=2, nfe=1, seed=0)
    eps = noise(0, [0, 1], tuple(x.shape[1:]))
    torch.testing.assert_close(drawn, flow.sample(u.eval(), eps), rtol=0, atol=1e-5)
    assert loaded.stats == stats


def test_the_volume_threshold_gives_masks_the_mean_volume_of_training_lesions():
    soft = torch.rand(4, 10, 10, 10, generator=rng(0))
    threshold = pair_samples.volume_threshold(soft, 0.4, 2.0)
    assert float((soft > threshold).float().mean() * 8) == pytest.approx(0.4, rel=0.03)
    with pytest.raises(
        ValueError, match="mean_ml must be above 0 and less than the volume, 1000 voxels of 2 mm; got 9 ml"
    ):
        pair_samples.volume_threshold(soft, 9.0, 2.0)


@pytest.fixture
def sampling(run, tmp_path, monkeypatch):
    """Arguments of `sample_pairs` for an untrained run and an autoencoder that only repeats voxels."""
    x = pairs(8)
    stats = {"mean": [0.4] * 5, "std": [0.1] * 5, "shape": list(x.shape[1:]), "mask_encoding": "level"}
    fine_tuned = Run(with_adapters(run, x).eval(), {**stats, "threshold": 0.5}, tuple(x.shape[1:]))

    def repeat_voxels(_, latent, **__):
        volume = latent[:, :1]
        for axis in (2, 3, 4):
            volume = volume.repeat_interleave(4, axis)
        return volume

    monkeypatch.setattr(pair_samples.mask_encoding, "decode_safely", repeat_voxels)
    monkeypatch.setattr(pair_samples, "load_pair_run", lambda *_: fine_tuned)
    monkeypatch.setattr(pair_samples, "load", lambda _: None)
    real = pd.DataFrame({"split": ["train", "train", "test"], "lesion_ml": [6.0, 10.0, 90.0]})
    write_table(real, tmp_path / "pairs.tsv")
    files = {"run": tmp_path / "model.pt", "adapter": tmp_path, "weights": tmp_path, "pairs": tmp_path / "pairs.tsv"}
    return {**files, "n_samples": 3, "seed": 0, "spacing_mm": 2.0}


def test_pairs_are_written_with_a_table_and_equal_seeds_give_equal_files(sampling, tmp_path):
    pair_samples.sample_pairs(out=tmp_path / "out", **sampling)
    table = pd.read_csv(tmp_path / "out" / "samples.tsv", sep="\t")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert first.keys() == {"samples.tsv", *(f"{k:05d}_{kind}.nii.gz" for k in range(3) for kind in ("FLAIR", "mask"))}
    assert table["lesion_ml"].mean() == pytest.approx(8.0, rel=0.05) and set(table["mask_encoding"]) == {"level"}
    pair_samples.sample_pairs(out=tmp_path / "out", **sampling)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    pair_samples.sample_pairs(out=tmp_path / "out", **sampling, mask_threshold="encoding")
    assert (pd.read_csv(tmp_path / "out" / "samples.tsv", sep="\t")["threshold"] == 0.5).all()


def test_a_folder_with_other_files_is_not_overwritten(sampling, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("chapter 1")
    with pytest.raises(FileExistsError, match="has other files than samples"):
        pair_samples.sample_pairs(out=tmp_path / "out", **sampling)


def test_every_mask_encoding_can_be_fine_tuned(run):
    for channels in CHANNELS.values():
        u = with_adapters(run, pairs(4, 4 + channels))
        assert u(pairs(2, 4 + channels), torch.ones(2), torch.zeros(2)).shape[1] == 4 + channels
