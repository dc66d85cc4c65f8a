"""Image and mask together: the run comes back when the adapter is off, and fine-tuning keeps what was best."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.lesions import finetune, network, prior
from neuromf.lesions import sample as joint_samples
from neuromf.lesions.mask_encoding import CHANNELS
from neuromf.lesions.run import load_pair_run, save_pair_run
from neuromf.meanflow import flow, sample
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.run import Run, build_network, load_run, save_run
from neuromf.nn import lora
from neuromf.training import trainer

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 2}
SHAPE = (4, 8, 8, 8)
REFIT = {"axes": 3, "loose": 0.5, "mask_residual_variance": 0.1}
INJECTED = {"rank": 2, "alpha": 2.0, "targets": "both"}
TIMES = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}


def chance(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def run(tmp_path):
    """A trained run as it is loaded from its file."""
    base = GaussianPrior.fit(torch.randn(6, *SHAPE, generator=chance(1)), 3)
    u = build_network(NET, "x", prior=base, seed=0)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.1, generator=chance(2))
    stats = {"mean": [0.0] * 4, "std": [1.0] * 4, "shape": list(SHAPE)}
    save_run(tmp_path / "model.pt", {"ema": u}, early=torch.zeros(1), net=NET, stats=stats)
    return load_run(tmp_path / "model.pt")


def pairs(n, channels=5, seed=5):
    return torch.randn(n, channels, *SHAPE[1:], generator=chance(seed)) + 1


def prepared(run, x, refit="lesion", **injected):
    base = prior.fit_pair_prior(run.u.prior, x, refit=refit, **REFIT)
    return network.add_adapters(run.u, x.shape[1], prior=base, **{**INJECTED, **injected})


def study(run, x, held, **settings):
    usual = {"batch": 4, "lr": 1e-2, "seed": 3, "warmup": 1, "times": TIMES, "tangent": "predicted", "ema_images": [8]}
    usual |= {"steps": 6, "look_every": 2, "patience": 9, "p": [1.5] * 4 + [2.0] * (x.shape[1] - 4)}
    return finetune.PairModule(prepared(run, x), x, held, **{**usual, **settings})


def fit(module, folder, **settings):
    trainer.fit(module, checkpoint=folder / "last.ckpt", accelerator="cpu", **{"checkpoint_every": 2, **settings})
    return module


# --- the network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("refit", prior.REFITS)
@pytest.mark.parametrize("channels", [5, 8])
def test_switched_off_samples_of_the_run_are_back_to_the_last_bit(run, refit, channels):
    u = prepared(run, pairs(9, channels), refit).eval()
    for parameter in (p for p in u.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1, generator=chance(4))
    eps = torch.randn(3, channels, *SHAPE[1:], generator=chance(6))
    with lora.switched_off(u):
        off = flow.sample(u, eps)
    assert torch.equal(off[:, :4], flow.sample(run.u, eps[:, :4]))
    assert not torch.equal(flow.sample(u, eps)[:, :4], off[:, :4])


def test_a_run_is_not_changed_by_its_fine_tuning(run, tmp_path):
    before = copy.deepcopy(run.u.state_dict())
    fit(study(run, pairs(8), pairs(2, seed=9), steps=2), tmp_path)
    assert all(torch.equal(before[name], value) for name, value in run.u.state_dict().items())


def test_only_what_was_added_is_trained_and_copied(run):
    module = study(run, pairs(8), pairs(2))
    trained = {name for name, p in module.u.named_parameters() if p.requires_grad}
    assert trained == set(lora.adapter_state(module.u))
    ours, theirs = dict(module.u.named_parameters()), dict(module.ema.net.named_parameters())
    shared = {name for name in ours if ours[name] is theirs[name]}
    assert shared == ours.keys() - trained


def test_the_gaussian_is_refitted_to_pairs(run):
    x = pairs(9)
    base = prior.fit_pair_prior(run.u.prior, x, refit="pair", **REFIT)
    assert torch.equal(base.mean, x.mean(0)) and len(base.variances) == REFIT["axes"]
    assert base.axes.view(-1, *x.shape[1:])[:, 4:].any()
    assert prior.fit_pair_prior(run.u.prior, x, refit="none", **REFIT) is None


def test_heads_vary_and_each_has_one_of_the_lesions_that_were_seen(run):
    """Planted: lesions at places of their own, brighter by 4 in all channels of the image and by 5 in the mask."""
    x = pairs(9) * torch.tensor([1.0] * 4 + [0.0]).view(5, 1, 1, 1)
    places = [(i, j, k) for i in (1, 4) for j in (1, 4) for k in (1, 4)] + [(6, 6, 6)]
    for one, (i, j, k) in zip(x, places, strict=True):
        one[:4, i, j, k], one[4, i, j, k] = one[:4, i, j, k] + 4, 5
    heads, lesions = prior.split_brain_and_lesion(x)
    torch.testing.assert_close(x.mean(0) + heads + lesions, x)
    assert not heads[:, 4:].any() and all(not heads[n, :, i, j, k].any() for n, (i, j, k) in enumerate(places))
    base = prior.fit_pair_prior(
        run.u.prior, x, refit="lesion", **REFIT | {"loose": 0.0, "mask_residual_variance": 1e-6}
    )
    eps = torch.randn(64, *x.shape[1:], generator=chance(1))
    drawn = base(eps, torch.ones(64), torch.zeros(64))
    masks = torch.stack([drawn[:, 4, i, j, k] for i, j, k in places], 1)
    full = masks.sort(1).values
    assert (full[:, -1] > 4).float().mean() > 0.9 and (
        full[:, -2] < 1
    ).float().mean() > 0.9  # one and no trace of others
    assert len(masks.argmax(1).unique()) == 9
    images = torch.stack([(drawn - x.mean(0))[:, :4, i, j, k].mean(1) for i, j, k in places], 1)
    there = images.gather(1, masks.argmax(1)[:, None])
    assert 2.5 < there.mean() < 5 and abs(images.mean()) < 0.5


def test_wrong_settings_are_refused(run):
    with pytest.raises(ValueError, match="targets must be one of attention, convolutions, both; got 'all'"):
        prepared(run, pairs(5), targets="all")
    with pytest.raises(ValueError, match="refit must be one of none, pair, lesion; got 'both'"):
        prepared(run, pairs(5), refit="both")
    with pytest.raises(ValueError, match="predicts u has no Gaussian to refit; set finetune.refit to none"):
        prior.fit_pair_prior(None, pairs(5), refit="pair", **REFIT)


# --- training ----------------------------------------------------------------------------------------


def test_the_best_weights_are_kept_and_it_ends_when_none_are_better(run, tmp_path, monkeypatch):
    module, seen = study(run, pairs(8), pairs(2), steps=40, patience=3), []
    values = iter([3.0, 1.0, 2.0, 2.5, 1.5, 0.1])

    def told(u):
        seen.append({name: w.clone() for name, w in lora.adapter_state(u).items()})
        return {"held": torch.tensor([next(values)])}

    monkeypatch.setattr(module, "held_out", told)
    fit(module, tmp_path)
    assert len(seen) == 5 and module.steps == module.global_step == 10 and module.best["step"] == 4
    assert all(torch.equal(w, seen[1][name]) for name, w in lora.adapter_state(module.chosen()).items())
    assert not torch.equal(*(weights["net.out.2.conv.added.weight"] for weights in (seen[1], seen[4])))
    assert [row["held"] for row in module.history] == [3.0, 1.0, 2.0, 2.5, 1.5]


def test_held_out_losses_are_those_of_the_formula_and_drawn_once(run):
    module = study(run, pairs(8).double(), pairs(2).double())
    module.u.double(), module.ema.net.double()
    module.u.net.time_embed.double()
    found = module.held_out(module.u)
    assert module.u.training and torch.equal(found["held"], module.held_out(module.u)["held"])
    assert len(found["held"]) == 2 * finetune.DRAWS
    torch.testing.assert_close(found["held"], (4 * found["held_image"] + found["held_mask"]) / 5)
    wide = module.held.repeat_interleave(finetune.DRAWS, 0)
    eps = torch.randn(wide.shape, generator=finetune.generator("held eps", 3)).to(wide)
    t, r = flow.draw_times(len(wide), finetune.generator("held times", 3), **TIMES)
    z, v = flow.training_path(wide, eps, t, "x")
    along = flow.predicted_tangent(module.u, z, t, r)
    V = flow.implied_velocity(*flow.single_pass(module.u, z, t, r, along), t, r)
    torch.testing.assert_close(found["held_image"], flow.raw_loss(V[:, :4], v[:, :4]), rtol=1e-4, atol=1e-5)


def test_without_held_out_pairs_the_last_weights_are_taken(run, tmp_path):
    module = fit(study(run, pairs(8), pairs(0), steps=2), tmp_path)
    assert module.best["state"] == {} and module.chosen() is module.ema.net and "held" not in module.history[-1]
    assert module.before() == {"step": 0}


class Killed(Exception):
    pass


def test_a_killed_fine_tuning_ends_with_the_bits_of_an_unbroken_one(run, tmp_path, monkeypatch):
    whole = fit(study(run, pairs(8), pairs(2)), tmp_path / "whole")
    broken, step = study(run, pairs(8), pairs(2)), finetune.PairModule.training_step

    def killed(self, *args):
        if self.global_step == 5:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(finetune.PairModule, "training_step", killed)
    with pytest.raises(Killed):
        fit(broken, tmp_path / "broken")
    monkeypatch.undo()
    again = fit(study(run, pairs(8), pairs(2)), tmp_path / "broken")
    assert again.best["step"] == whole.best["step"] and again.best["held"] == whole.best["held"]
    assert pd.DataFrame(again.history).equals(pd.DataFrame(whole.history))
    ours, theirs = (lora.adapter_state(each.chosen()) for each in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- files and samples -------------------------------------------------------------------------------


def stored(folder, x, split=None, copy_=None, **stats):
    about = {"mean": [0.5] * x.shape[1], "std": [2.0] * x.shape[1], "strategy": "level", "threshold": 0.5, **stats}
    split = np.array(["train"] * (len(x) - 1) + ["val"]) if split is None else split
    np.savez(folder / "level.npz", x=x.numpy(), split=split, copy=np.zeros(len(x), int) if copy_ is None else copy_,
             stats=json.dumps(about))  # fmt: skip
    return folder / "level.npz"


def test_pairs_are_read_normalised_and_by_split(tmp_path):
    x = pairs(5)
    found = finetune.read_pairs(stored(tmp_path, x, copy_=np.array([0, 1, 0, 2, 0])))
    torch.testing.assert_close(found.x, (x - 0.5) / 2)
    assert [
        len(found.of("train")),
        len(found.of("train", copies=True)),
        len(found.of("val")),
        len(found.of("test")),
    ] == [2, 4, 1, 0]
    assert found.stats["shape"] == [5, 8, 8, 8]


def test_latents_that_cannot_be_trained_on_are_refused(tmp_path):
    x = pairs(3)
    with pytest.raises(ValueError, match=r"holds no training pair; splits are \['val'\]"):
        finetune.read_pairs(stored(tmp_path, x, split=np.array(["val"] * 3)))
    x[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="holds 1 values that are not finite"):
        finetune.read_pairs(stored(tmp_path, x))


@pytest.mark.parametrize("refit", prior.REFITS)
def test_a_stored_run_draws_what_the_trained_one_does(run, tmp_path, refit):
    x = pairs(8)
    u = prepared(run, x, refit)
    for parameter in (p for p in u.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1, generator=chance(4))
    files = tmp_path / "adapter.safetensors", tmp_path / "gaussian.safetensors"
    stats = {"mean": [0.0] * 5, "std": [1.0] * 5, "shape": list(x.shape[1:]), "strategy": "level", "threshold": 0.4}
    save_pair_run(u, *files, stats=stats, **INJECTED)
    first = [path.read_bytes() for path in files]
    loaded = load_pair_run(run, *files)
    save_pair_run(u, *files, stats=stats, **INJECTED)
    assert [path.read_bytes() for path in files] == first
    drawn = sample.sample_latents(loaded, n=2, steps=1, seed=0)
    eps = joint_samples.generate.seeds.noise(0, [0, 1], tuple(x.shape[1:]))
    torch.testing.assert_close(drawn, flow.sample(u.eval(), eps), rtol=0, atol=1e-5)
    assert loaded.stats == stats


def test_the_threshold_gives_masks_the_volume_of_training_lesions():
    soft = torch.rand(4, 10, 10, 10, generator=chance(0))
    threshold = joint_samples.volume_threshold(soft, 0.4, 2.0)
    assert float((soft > threshold).float().mean() * 8) == pytest.approx(0.4, rel=0.03)
    with pytest.raises(ValueError, match="mean_ml must be above 0 and less than the volume; got 9 ml"):
        joint_samples.volume_threshold(soft, 9.0, 2.0)


class Decoder(torch.nn.Module):
    """An autoencoder that only repeats voxels."""


def test_pairs_are_written_whole_with_a_table_of_them(run, tmp_path, monkeypatch):
    x = pairs(8)
    stats = {"mean": [0.4] * 5, "std": [0.1] * 5, "shape": list(x.shape[1:]), "strategy": "level", "threshold": 0.5}
    drawing = Run(prepared(run, x).eval(), stats, tuple(x.shape[1:]))

    def evaluate(_, __, latent, **___):
        grown = latent[:, :1]
        for axis in (2, 3, 4):
            grown = grown.repeat_interleave(4, axis)
        return (grown,)

    monkeypatch.setattr(joint_samples.masks, "evaluate", evaluate)
    write = {"n": 3, "seed": 0, "spacing_mm": 2.0, "mean_ml": 8.0}
    joint_samples.write_pairs(drawing, Decoder(), tmp_path / "out", **write)
    table = pd.read_csv(tmp_path / "out" / "samples.tsv", sep="\t")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert first.keys() == {"samples.tsv", *(f"{k:05d}_{kind}.nii.gz" for k in range(3) for kind in ("FLAIR", "mask"))}
    assert table["lesion_ml"].mean() == pytest.approx(8.0, rel=0.05) and set(table["strategy"]) == {"level"}
    joint_samples.write_pairs(drawing, Decoder(), tmp_path / "out", **write)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="holds other files than samples"):
        joint_samples.write_pairs(drawing, Decoder(), tmp_path / "mine", **write)


def test_channels_of_every_mask_strategy_can_be_tuned(run):
    for channels in CHANNELS.values():
        u = prepared(run, pairs(4, 4 + channels))
        assert u(pairs(2, 4 + channels), torch.ones(2), torch.zeros(2)).shape[1] == 4 + channels
