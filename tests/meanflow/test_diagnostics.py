"""Diagnostics: rows against their definitions, and small runs in which each known fault raises its alarm."""

import logging
import math

import numpy as np
import pandas as pd
import pytest
import torch

from neuromf.core import seeds
from neuromf.meanflow import diagnostics, flow, module, run, velocity_net
from neuromf.meanflow.diagnostics import Diagnostics, TrainingAlarm
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.nn import embeddings, mlp
from neuromf.training import trainer

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
SHAPE = (4, 4, 4, 4)


def latents(n=32):
    """Latents that vary along a few directions, as those of participants do."""
    mixing = torch.randn(6, 256, generator=seeds.generator("test", "mixing")) / 6**0.5
    return (torch.randn(n, 6, generator=seeds.generator("test", "people")) @ mixing).view(n, *SHAPE)


def awake(prediction="x", **kind):
    u = run.build_network(NET, prediction, **kind)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.2, generator=seeds.generator("test"))
    return u


def rows(quantity, values, t="0-0.25", part=""):
    """One row per evaluation, 10 steps apart."""
    row = {"quantity": quantity, "t": t, "h": "", "part": part}
    return [{"step": 10 * k, **row, "value": v} for k, v in enumerate(values)]


def value(table, quantity, **where):
    index = {"t": 1, "h": 2, "part": 3}
    matching = [row for row in table if row[0] == quantity and all(row[index[k]] == v for k, v in where.items())]
    assert len(matching) == 1, (quantity, where, matching)
    return matching[0][4]


# --- rows --------------------------------------------------------------------------------------------


def test_an_edge_belongs_to_the_bin_below_it():
    times = torch.tensor([0.0, 0.1, 0.25, 0.26, 0.5, 0.75, 0.751, 1.0])
    assert diagnostics.bin_of(times).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


def test_a_window_is_summarised_by_means_per_bin_and_their_ratio():
    watch = Diagnostics(every=1)
    t, r = torch.tensor([0.1, 0.9, 0.9, 0.9, 0.95]), torch.tensor([0.1, 0.9, 0.8, 0.0, 0.05])
    v = torch.ones(5, 2, 2)
    watch.record_batch(torch.tensor([1.0, 2.0, 3.0, 4.0, 8.0]), 10 * v, v, t, r)
    table = diagnostics.summarise_window(watch.pairs)
    assert value(table, "raw_fm", t="0-0.25") == 1 and value(table, "raw_fm", t="0.75-1") == 2
    assert value(table, "raw_mf", t="0.75-1", h="") == 5
    assert value(table, "raw_mf", t="0.75-1", h="0-0.25") == 3 and value(table, "raw_mf", t="0.75-1", h="0.75-1") == 6
    assert value(table, "derivative", h="0.75-1") == pytest.approx(9)
    assert value(table, "ratio", t="0.75-1") == 2.5 and not [row for row in table if row[:2] == ("ratio", "0-0.25")]


def test_the_partial_derivatives_sum_to_the_total_derivative():
    u, x, eps = awake("u").double(), latents(4).double(), seeds.noise(0, [0, 1, 2, 3], SHAPE).double()
    table = diagnostics.partial_derivatives(u, x, eps)
    t = torch.full((4,), 0.375).double()
    z, v = flow.interpolate(x, eps, t)
    total = flow.total_derivative(u, z, t, 0 * t, v)[1]
    along_t = flow.total_derivative(u, z, t, 0 * t, 0 * v)[1]
    size = lambda part: (diagnostics.rms(part) / diagnostics.rms(v)).mean().item()  # noqa: E731
    assert value(table, "temporal", t="0.25-0.5") == pytest.approx(size(along_t))
    assert value(table, "spatial", t="0.25-0.5") == pytest.approx(size(total - along_t))


def test_fixed_pairs_have_the_raw_loss_to_their_own_v():
    u, x, eps = awake(), latents(4), seeds.noise(0, [0, 1, 2, 3], SHAPE).to(latents(4))
    table = diagnostics.fixed_pairs(u, x, eps)
    for name, time in zip(diagnostics.BINS, (0.125, 0.375, 0.625, 0.875), strict=True):
        t = x.new_full((4,), time)
        z = (1 - time) * x + time * eps
        assert value(table, "fixed_fm", t=name) == pytest.approx((u(z, t, t) - (eps - x)).square().mean().item())
    assert diagnostics.fixed_pairs(u, x, eps) == table


def test_a_probe_of_the_exact_gaussian_flow_has_ideal_values():
    x = latents(64)
    u = run.build_network(NET, "x", prior=GaussianPrior.fit(x, 6)).eval()
    table = diagnostics.probe(u, x, n=64, nfe=20, seed=0)
    assert value(table, "endpoint") < 1e-3
    for c in range(4):
        assert value(table, "latent_std", part=str(c)) == pytest.approx(1, abs=0.2)
    spectrum = [row[4] for row in table if row[0] == "spectrum"]
    assert len(spectrum) == 3 and np.allclose(spectrum, 1, atol=0.5)


def test_a_probe_leaves_no_gradient_and_accepts_fewer_latents_than_n():
    u = awake()
    table = diagnostics.probe(u, latents(3), n=8, nfe=2, seed=0)
    assert {row[0] for row in table} == {"fixed_fm", "spatial", "temporal", "endpoint", "latent_std", "spectrum"}
    assert all(p.grad is None for p in u.parameters())


SPATIAL = rows("spatial", [1.0, 1.5])


def validation(values):
    """Rows of a constant prior, and of a network with these errors."""
    return rows("validation", values, part="network") + rows("validation", [0.1] * len(values), part="prior")


def test_evaluations_are_due_regularly_and_at_the_end_once_per_step():
    watch = Diagnostics(every=40)
    assert [step for step in range(101) if watch.due(step, 100)] == [40, 80, 100]
    watch.rows = [{"step": 40}]
    assert not watch.due(40, 100) and watch.due(80, 100)


# --- alarms on rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "bad", "good"),
    [
        (diagnostics.ratio_high, rows("ratio", [1.0, 2.1]), rows("ratio", [9.0, 1.9])),
        (diagnostics.time_too_fast, SPATIAL + rows("temporal", [1.0, 3.1]), SPATIAL + rows("temporal", [9.0, 2.9])),
        (diagnostics.raw_explodes, rows("raw_mf", [5.0, 1.0, 10.1]), rows("raw_mf", [50.0, 1.0, 9.9])),
        (diagnostics.raw_explodes, rows("raw_fm", [1.0, 10.1]), rows("raw_fm", [100.0, 9.9])),
        (diagnostics.overfits, validation([1.0, 0.9, 0.92]), validation([1.0, 0.91, 0.92])),
        (diagnostics.not_finite, rows("endpoint", [1.0, math.nan]), rows("endpoint", [math.nan, 1.0])),
    ],
)
def test_an_alarm_is_raised_above_its_bound(test, bad, good):
    assert test(bad) and not test(good) and not test(rows("other", [1.0]))


def test_an_alarm_names_cause_and_cure(caplog):
    watch = Diagnostics(every=10, quiet_steps=10)
    watch.rows = rows("ratio", [1.0, 7.0])
    with caplog.at_level(logging.WARNING):
        watch.check_alarms(10)
    text = caplog.text
    assert "step 10: raw MeanFlow loss is 7 x the flow-matching loss at t in 0-0.25 (at most 2). Likely cause: " in text
    assert "Cure: derivative: single_pass in float32, tangent: predicted" in text
    assert watch.rows[-1] == {"step": 10, "quantity": "alarm", "t": "", "h": "", "part": "ratio", "value": 1.0}
    with pytest.raises(TrainingAlarm, match="raw MeanFlow loss is 7 x"):
        watch.on_alarm = "stop"
        watch.check_alarms(10)


# --- alarms in small runs ----------------------------------------------------------------------------


class Flat(mlp.MLP):
    """The MLP of the torus, on flattened latents."""

    def forward(self, z, t, r):
        return super().forward(z.flatten(1), t, r).view_as(z)


def train(tmp_path, steps=200, on_alarm="stop", **settings):
    """A short training of a small network with an evaluation every 40 steps."""
    watch = Diagnostics(every=40, nfe=4, n=4, quiet_steps=60, on_alarm=on_alarm)
    defaults = {
        "batch": 8,
        "lr": 5e-3,
        "seed": 0,
        "flow_matching_steps": 40,
        "tangent": "predicted",
        "ema_images": [50],
    }
    times = {"fraction_r_equals_t": 0.5, "fraction_corner": 0.25}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        u = velocity_net.MeanVelocityNet(Flat(256, width=64, depth=2), "u")
    study = module.MeanFlowModule(
        u, latents(), steps=steps, times=times, log_every=20, warmup=5, diagnostics=watch, **{**defaults, **settings}
    )
    trainer.fit(study, checkpoint=tmp_path / "last.ckpt", accelerator="cpu", clip=1e9)
    return study


def test_a_healthy_run_raises_no_alarm(tmp_path):
    study = train(tmp_path)
    table = pd.DataFrame(study.diagnostics.rows)
    assert sorted(table["step"].unique()) == [0, 40, 80, 120, 160, 200]
    assert "alarm" not in set(table["quantity"]) and "ratio" in set(table["quantity"])


def in_thousandths(t, r):
    """Times scaled as in diffusion code."""
    return 1000 * t, 1000 * (t - r)


def test_scaled_times_raise_an_alarm(tmp_path, monkeypatch):
    monkeypatch.setitem(embeddings.CONDITIONINGS, "t-h", in_thousandths)
    with pytest.raises(TrainingAlarm, match=r"step 80: du/dt at fixed z is .* Cure: feed t and h raw"):
        train(tmp_path)


def bf16_difference(u, z, t, r, v, precision, step=1e-3):
    """u, and du/dt where r < t from a forward difference in bf16 (relative errors of 2^-9 over 1e-3)."""
    out, du_dt, moving = u(z, t, r), torch.zeros_like(z), r < t
    z, t, r, v = z[moving], t[moving], r[moving], v[moving]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        du_dt[moving] = (u(z + step * v, t + step, r).float() - u(z, t, r).float()) / step
    return out, du_dt


def test_a_noisy_derivative_raises_an_alarm(tmp_path, monkeypatch):
    monkeypatch.setitem(flow.DERIVATIVES, "bf16", bf16_difference)
    with pytest.raises(TrainingAlarm, match=r"raw MeanFlow loss is .* Likely cause: du/dt is noisy"):
        train(tmp_path, derivative="bf16")


def test_an_explosion_behind_a_flat_weighted_loss_raises_an_alarm(tmp_path, monkeypatch):
    monkeypatch.setitem(embeddings.CONDITIONINGS, "t-h", in_thousandths)
    study = train(tmp_path, steps=300, lr=0.02, tangent="conditional", on_alarm="warn")
    weighted = [row["loss"] for row in study.history]
    assert max(weighted) < weighted[0] + 1e-4 < 1.1 and study.history[-1]["raw_mf"] > 100 * study.history[3]["raw_mf"]
    assert "explosion" in {row["part"] for row in study.diagnostics.rows if row["quantity"] == "alarm"}


def test_the_first_row_is_that_of_the_untrained_network_even_if_training_starts_from_trained_weights():
    """A fresh network equals its prior; weights that were trained before do not enter the first row."""
    prior = GaussianPrior.fit(latents(), 3)
    trained, x, eps = awake(prior=prior).eval(), latents(4), seeds.noise(1, [0, 1, 2, 3], SHAPE)
    first = diagnostics.fixed_pairs(diagnostics.untrained(trained), x, eps)
    fresh = run.build_network(NET, "x", prior=prior, seed=5).eval()
    assert first == diagnostics.fixed_pairs(fresh, x, eps) != diagnostics.fixed_pairs(trained, x, eps)
    other = awake("u").eval()
    assert diagnostics.untrained(other) is other
