"""Exp3: partition, heads, isolation, curriculum, targets, auxiliary decoder and a training."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from growth.training_helpers import SIDE, config, loaders, module_of, run
from torch import nn

from neuromf.config.growth_model import PresetLoss
from neuromf.growth.partition import Partition
from neuromf.growth.semantic_heads import SemanticHeads, masked_error
from neuromf.growth.semi_module import SEMANTIC, SemiLitModule
from neuromf.nn.decoders import ConvDecoder
from neuromf.vae.schedules import decayed, linear

WIDTHS = {"vol": 1, "loc": 3, "shape": 4}
MODEL = {"z_dim": 12, "variant": "semi", "partition": WIDTHS}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def semi(folder, model=MODEL, **changes):
    """A module that knows the subjects, with all weights at their final value, and a batch."""
    settings, data = config(model=model, **changes), loaders(batch=4)
    module = module_of(settings)
    module.use_data(data[0].dataset, data[1].dataset, settings["data"], folder)
    module.weights |= {name: at(1000) for name, at in module.schedules.items()}
    return module, next(iter(data[0]))


def forward(module, batch):
    return module.model.train().forward_full(batch["image"], torch.zeros(len(batch["image"]), module.model.z_dim))


# --- partition and heads -----------------------------------------------------------------------------


def test_G29_a_partition_tiles_the_latent():
    parts = Partition.of_widths(WIDTHS, 32)
    assert list(parts) == ["vol", "loc", "shape", "residual"] and parts["residual"] == slice(8, 32)
    assert parts.ranges() == {"vol": [0, 1], "loc": [1, 4], "shape": [4, 8], "residual": [8, 32]}


WRONG = [{"vol": (0, 1), "residual": (2, 4)}, {"vol": (0, 2), "residual": (1, 4)}, {"vol": (0, 1), "residual": (1, 3)},
         {"vol": (1, 2), "residual": (2, 4)}, {"vol": (0, 0), "residual": (0, 4)}]  # fmt: skip


@pytest.mark.parametrize("ranges", WRONG)
def test_G29_gaps_and_overlaps_raise(ranges):
    with pytest.raises(ValueError, match=r"must tile \[0, 4\)"):
        Partition(ranges, 4)


def test_G29_no_residual_and_unknown_parts_raise():
    with pytest.raises(ValueError, match="must tile"):
        Partition.of_widths(WIDTHS, 8)
    with pytest.raises(ValueError, match=r"names \['colour'\]; allowed are vol, loc, shape"):
        Partition.of_widths({"colour": 1}, 8)


def test_G29_a_head_has_no_gradient_to_other_dimensions():
    heads, mu = SemanticHeads(Partition.of_widths(WIDTHS, 12)), torch.randn(5, 12, requires_grad=True)
    assert isinstance(heads["vol"], nn.Identity) and isinstance(heads["loc"], nn.Identity)
    assert [len(heads["shape"]), heads["shape"][-1].out_features] == [4, 6]
    for name, span in heads.partition.items():
        if name in heads:
            (grad,) = torch.autograd.grad(heads(mu)[name].square().sum(), mu)
            assert (grad[:, span] != 0).any()
            grad[:, span] = 0
            assert torch.equal(grad, torch.zeros_like(grad)), name


@pytest.mark.parametrize("isolate", [{}, {"loc": "trunk"}])
def test_G29_isolation_stops_the_error_of_a_part_at_the_trunk(tmp_path, isolate):
    module, batch = semi(tmp_path, MODEL | {"isolate": isolate})
    out = forward(module, batch)
    module.semantic_costs(batch, out)["semantic_loc"].backward()
    trunk = sum(float(p.grad.abs().sum()) for p in module.model.encoder.blocks.parameters() if p.grad is not None)
    rows = module.model.encoder.mu.weight.grad.abs().sum(1)
    assert (trunk == 0) == bool(isolate)
    assert (rows[1:4] > 0).all() and rows[0] == 0 and (rows[4:] == 0).all()


def test_G29_isolation_of_one_part_leaves_the_others(tmp_path):
    module, batch = semi(tmp_path, MODEL | {"isolate": {"loc": "trunk"}})
    module.semantic_costs(batch, forward(module, batch))["semantic_vol"].backward()
    assert module.model.encoder.stem[0].weight.grad.abs().sum() > 0


# --- semantic losses ---------------------------------------------------------------------------------


def test_G30_knots_of_the_curriculum(tmp_path):
    module = semi(tmp_path, train={"max_epochs": 600})[0]
    at = module.schedules["semantic_vol"]
    assert [at(e) for e in (0, 30, 50, 70, 400, 475, 550, 900)] == [0, 0, 10, 20, 20, 15, 10, 10]
    assert [module.schedules["semantic_loc"](e) for e in (80, 120)] == [0, 12]
    assert [module.schedules["semantic_shape"](e) for e in (120, 170)] == [0, 15]
    assert [module.schedules["dcor"](e) for e in (150, 175, 200, 600)] == [0, 2.5, 5, 5]


def test_G30_the_curriculum_is_scaled_to_the_length_of_the_training(tmp_path):
    module = semi(tmp_path, train={"max_epochs": 60}, loss={"curriculum_epochs": 600})[0]
    assert [module.schedules["semantic_vol"](e) for e in (3, 5, 7, 55)] == pytest.approx([0, 10, 20, 10])


def test_G30_an_absent_component_contributes_nothing():
    predicted, targets = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2)
    present = torch.tensor([[1.0, 1], [0, 0], [1, 0]])
    error = masked_error(predicted, targets, present)
    error.backward()
    expected = ((predicted - targets)[present > 0] ** 2).mean()
    torch.testing.assert_close(error, expected)
    assert (predicted.grad[present == 0] == 0).all() and (predicted.grad[present > 0] != 0).all()
    assert float(masked_error(predicted, targets, torch.zeros(3, 2)).detach()) == 0


def test_G30_a_subject_without_a_tumour_has_no_semantic_error(tmp_path):
    settings, data = config(model=MODEL), loaders(batch=6)
    data[0].dataset[2]["seg"].zero_()
    module = module_of(settings)
    module.use_data(data[0].dataset, data[1].dataset, settings["data"], tmp_path)
    targets, present = module.semantic_targets.of(["s12", "s10"], ["log_volume_mass", "sphericity"], torch.zeros(1))
    assert (present[0] == 0).all() and (targets[0] == 0).all() and (present[1] == 1).all()


def test_G30_defaults_of_the_config_are_those_of_the_module():
    loss = PresetLoss()
    assert {name: tuple(value) for name, value in loss.semantic.items()} == SEMANTIC
    assert decayed(linear(4.0, 2), 4, 8, 0.25)(6) == pytest.approx(4 * 0.625)


# --- auxiliary decoder -------------------------------------------------------------------------------


def test_G32_the_auxiliary_decoder_has_half_the_side():
    with torch.device("meta"):
        decoder = ConvDecoder(4, 84, (64, 64, 64), width=16)
        assert decoder(torch.empty(2, 84)).shape == (2, 4, 64, 64, 64)
    assert decoder.map_shape == (128, 4, 4, 4) and len(decoder.blocks) == 4


def test_G32_gradients_of_the_auxiliary_error_reach_the_residual_only(tmp_path):
    module, batch = semi(tmp_path)
    out = forward(module, batch)
    out.z.retain_grad()
    module.auxiliary_cost(batch["image"], out).backward()
    assert (out.z.grad[:, :8] == 0).all() and (out.z.grad[:, 8:] != 0).any()
    small = module.aux(out.z[:, 8:])
    assert small.shape == (4, 4, SIDE // 2, SIDE // 2, SIDE // 2)


@pytest.mark.parametrize("reduction, factor", [("sum", 4 * 4 * SIDE**3), ("mean", 1.0)])
def test_G32_the_auxiliary_error_has_the_unit_of_the_reconstruction(tmp_path, reduction, factor):
    module, batch = semi(tmp_path, loss={"reduction": reduction})
    out = forward(module, batch)
    target = torch.nn.functional.avg_pool3d(batch["image"], 2)
    expected = 0.5 * factor * (module.aux(out.z[:, 8:]) - target).square().mean()
    torch.testing.assert_close(module.auxiliary_cost(batch["image"], out), expected)


# --- module ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean", "nll"])
def test_G79_the_loss_has_dip_and_semantic_terms(tmp_path, reduction):
    module, batch = semi(tmp_path, loss={"reduction": reduction, "lambda_hinge": 1.0})
    terms = module.objective(batch, forward(module, batch), 1.0)
    n = batch["image"][0].numel()
    penalty, unit = {"sum": (1, 4), "mean": (1, 1), "nll": (1 / n, 1 / n)}[reduction]
    names = ("semantic_vol", "semantic_loc", "semantic_shape", "cross", "dcor", "hinge")
    assert all(float(terms[name].detach()) > 0 for name in ("cov_penalty", "aux", *names[:4]))
    elbo = {"sum": terms["recon"] + 4 * terms["kl_constrained"], "mean": terms["recon"] + terms["kl_constrained"],
            "nll": terms["recon"] + terms["kl_constrained"] / n}[reduction]  # fmt: skip
    expected = elbo + penalty * terms["cov_penalty"] + unit * sum(terms[name] for name in names) + terms["aux"]
    torch.testing.assert_close(terms["loss"], expected)


def test_G79_the_identity_head_maps_z_vol_to_the_log_volume(tmp_path):
    module, batch = semi(tmp_path)
    targets, _ = module.semantic_targets.of(batch["id"], ["log_volume_mass"], torch.zeros(1))
    stored = json.loads((tmp_path / "semantic_targets.json").read_text())
    volume = torch.isin(batch["seg"], torch.tensor([1, 3])).flatten(1).sum(1) * 8.0
    found = stored["std"]["log_volume_mass"] * targets[:, 0] + stored["mean"]["log_volume_mass"]
    torch.testing.assert_close(found, torch.log1p(volume), rtol=1e-5, atol=1e-5)
    mu = torch.zeros(4, 12)
    mu[:, 0] = targets[:, 0]
    torch.testing.assert_close(module.heads(mu)["vol"], targets)


def test_G79_dip_penalties_are_those_of_the_residual_and_supervised_parts_have_no_kl(tmp_path):
    module, batch = semi(tmp_path)
    out = forward(module, batch)
    before = module.objective(batch, out, 1.0)
    out.mu = torch.cat([5 + 3 * out.mu[:, :8], out.mu[:, 8:]], 1)
    after = module.objective(batch, out, 1.0)
    torch.testing.assert_close(before["cov_penalty"], after["cov_penalty"])
    torch.testing.assert_close(before["kl_constrained"], after["kl_constrained"])
    assert after["kl_raw"] > before["kl_raw"]


@pytest.mark.parametrize("use_sbd", [False, True])
def test_G17_the_supervised_variant_builds_and_steps(tmp_path, use_sbd):
    module, batch = semi(tmp_path, MODEL | {"use_sbd": use_sbd})
    assert type(module) is SemiLitModule
    module.objective(batch, forward(module, batch), 1.0)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_G36_the_supervised_module_logs_its_terms_and_ranks_by_readiness(tmp_path):
    loss = {"curriculum_epochs": 600, "lambda_start_epoch": 0, "lambda_cov_annealing_epochs": 1}
    run(tmp_path, model=MODEL, loss=loss, train={"max_epochs": 2, "gradient_clip_val": 5.0})
    table = pd.read_csv(tmp_path / "logs/epoch_metrics.csv")
    names = ["semantic_vol", "semantic_loc", "semantic_shape", "cross", "dcor", "hinge", "aux", "cov_penalty"]
    assert {f"{split}_epoch/{name}" for split in ("train", "val") for name in names} <= set(table)
    assert {"sched/semantic_vol", "sched/dcor", "diag/ode_readiness", "diag/r2_vol", "diag/au_count"} <= set(table)
    assert table["train_epoch/semantic_vol"][1] > 0 and table["diag/ode_readiness"].notna().all()
    best = torch.load(tmp_path / "checkpoints/best_readiness.ckpt", weights_only=True)
    assert best["epoch"] == int(np.argmax(table["diag/ode_readiness"]))


def test_G30_targets_of_random_crops_are_measured_in_every_crop(tmp_path):
    settings, data = config(model=MODEL), loaders(batch=4)
    module = module_of(settings)
    module.use_data(data[0].dataset, data[1].dataset, settings["data"] | {"train_margin": 4}, tmp_path)
    batch, like = next(iter(data[0])), torch.zeros(1)
    names = ["log_volume_mass", "centroid_x", "centroid_y", "centroid_z"]
    whole, cropped = (module.semantic_targets.of(batch["id"], names, like),
                      module.semantic_targets.of_crops(batch["seg"], names, like))  # fmt: skip
    torch.testing.assert_close(cropped[0], whole[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(cropped[1], whole[1])
    out, batch["seg"] = forward(module, batch), batch["seg"].roll(2, 2)
    module.weights |= {name: at(1000) for name, at in module.schedules.items()}
    moved = {name: float(value) for name, value in module.train().semantic_costs(batch, out).items()}
    same = {name: float(value) for name, value in module.eval().semantic_costs(batch, out).items()}
    assert moved["semantic_loc"] != pytest.approx(same["semantic_loc"], rel=1e-3)
    assert moved["semantic_vol"] == pytest.approx(same["semantic_vol"], rel=1e-3)
    batch["seg"][0] = 0
    targets, present = module.semantic_targets.of_crops(batch["seg"], names, like)
    assert (targets[0] == 0).all() and (present[0] == 0).all() and (present[1:] == 1).all()
