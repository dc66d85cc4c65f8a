"""Health of a training: rows are what they say, and each known sickness raises its alarm in a small run."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from neuromf.core import seeds
from neuromf.meanflow import diagnostics, flow, module, run, velocity_net
from neuromf.meanflow.diagnostics import Diagnostics, TrainingAlarm
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.nn import embeddings, mlp
from neuromf.training import trainer
from neuromf.vae import training_set
from workflow_scripts import train as train_script

ROOT = Path(__file__).resolve().parents[2]

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4}
SHAPE = (4, 4, 4, 4)


def people(n=32):
    """Latents that differ along a few directions, as people do."""
    mixing = torch.randn(6, 256, generator=seeds.generator("test", "mixing")) / 6**0.5
    return (torch.randn(n, 6, generator=seeds.generator("test", "people")) @ mixing).view(n, *SHAPE)


def awake(prediction="x", **kind):
    u = run.build_network(NET, prediction, **kind)
    torch.nn.init.normal_(u.net.out[2].conv.weight, std=0.2, generator=seeds.generator("test"))
    return u


def rows(quantity, values, t="0-0.25", part=""):
    """One row a look, 10 steps apart."""
    row = {"quantity": quantity, "t": t, "h": "", "part": part}
    return [{"step": 10 * k, **row, "value": v} for k, v in enumerate(values)]


def value(table, quantity, **where):
    place = {"t": 1, "h": 2, "part": 3}
    found = [row for row in table if row[0] == quantity and all(row[place[k]] == v for k, v in where.items())]
    assert len(found) == 1, (quantity, where, found)
    return found[0][4]


# --- rows --------------------------------------------------------------------------------------------


def test_times_fall_into_the_bin_whose_upper_edge_they_do_not_pass():
    times = torch.tensor([0.0, 0.1, 0.25, 0.26, 0.5, 0.75, 0.751, 1.0])
    assert diagnostics.bin_of(times).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


def test_pairs_of_a_stretch_become_means_by_bin_and_their_ratio():
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


def test_the_shares_of_the_derivative_are_those_of_the_whole():
    """Both parts, one along z and one along t, sum to du/dt; the rows hold their sizes over that of v."""
    u, x, eps = awake("u").double(), people(4).double(), seeds.noise(0, [0, 1, 2, 3], SHAPE).double()
    table = diagnostics.derivative_shares(u, x, eps)
    t = torch.full((4,), 0.375).double()
    z, v = flow.interpolate(x, eps, t)
    whole = flow.total_derivative(u, z, t, 0 * t, v)[1]
    along_t = flow.total_derivative(u, z, t, 0 * t, 0 * v)[1]
    size = lambda part: (diagnostics.rms(part) / diagnostics.rms(v)).mean().item()  # noqa: E731
    assert value(table, "temporal", t="0.25-0.5") == pytest.approx(size(along_t))
    assert value(table, "spatial", t="0.25-0.5") == pytest.approx(size(whole - along_t))


def test_pairs_that_every_look_comes_back_to_have_the_loss_of_their_own_v():
    u, x, eps = awake(), people(4), seeds.noise(0, [0, 1, 2, 3], SHAPE).to(people(4))
    table = diagnostics.fixed_pairs(u, x, eps)
    for name, time in zip(diagnostics.BINS, (0.125, 0.375, 0.625, 0.875), strict=True):
        t = x.new_full((4,), time)
        z = (1 - time) * x + time * eps
        assert value(table, "fixed_fm", t=name) == pytest.approx((u(z, t, t) - (eps - x)).square().mean().item())
    assert diagnostics.fixed_pairs(u, x, eps) == table


def test_a_probe_of_the_exact_flow_finds_nothing_amiss():
    """The Gaussian's own flow: one step ends where many do, with the deviation and spectrum of its draws."""
    x = people(64)
    u = run.build_network(NET, "x", prior=GaussianPrior.fit(x, 6)).eval()
    table = diagnostics.probe(u, x, n=64, evaluations=20, seed=0)
    assert value(table, "endpoint") < 1e-3
    for c in range(4):
        assert value(table, "latent_std", part=str(c)) == pytest.approx(1, abs=0.2)
    spectrum = [row[4] for row in table if row[0] == "spectrum"]
    assert len(spectrum) == 3 and np.allclose(spectrum, 1, atol=0.5)


def test_a_probe_leaves_no_gradient_and_needs_no_more_people_than_there_are():
    u = awake()
    table = diagnostics.probe(u, people(3), n=8, evaluations=2, seed=0)
    assert {row[0] for row in table} == {"fixed_fm", "spatial", "temporal", "endpoint", "latent_std", "spectrum"}
    assert all(p.grad is None for p in u.parameters())


SPATIAL = rows("spatial", [1.0, 1.5])


def test_looks_are_due_every_so_many_steps_at_the_end_and_once():
    watch = Diagnostics(every=40)
    assert [step for step in range(101) if watch.due(step, 100)] == [40, 80, 100]
    watch.rows = [{"step": 40}]
    assert not watch.due(40, 100) and watch.due(80, 100)


# --- alarms on rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "sick", "well"),
    [
        (diagnostics.ratio_high, rows("ratio", [1.0, 2.1]), rows("ratio", [9.0, 1.9])),
        (diagnostics.time_too_fast, SPATIAL + rows("temporal", [1.0, 3.1]), SPATIAL + rows("temporal", [9.0, 2.9])),
        (diagnostics.raw_explodes, rows("raw_mf", [5.0, 1.0, 10.1]), rows("raw_mf", [50.0, 1.0, 9.9])),
        (diagnostics.raw_explodes, rows("raw_fm", [1.0, 10.1]), rows("raw_fm", [100.0, 9.9])),
        (diagnostics.not_finite, rows("endpoint", [1.0, math.nan]), rows("endpoint", [math.nan, 1.0])),
    ],
)
def test_an_alarm_is_due_from_its_bound_on(test, sick, well):
    assert test(sick) and not test(well) and not test(rows("other", [1.0]))


def test_alarms_are_silent_before_their_time_and_name_cause_and_cure_after(caplog):
    watch = Diagnostics(every=10, after=10)
    watch.rows = rows("ratio", [1.0, 7.0])
    with caplog.at_level(logging.WARNING):
        watch.check_alarms(10)
    text = caplog.text
    assert "step 10: raw MeanFlow loss is 7 x the flow-matching loss at t in 0-0.25 (at most 2). Likely cause: " in text
    assert "Cure: derivative: joint in float32, tangent: predicted" in text
    assert watch.rows[-1] == {"step": 10, "quantity": "alarm", "t": "", "h": "", "part": "ratio", "value": 1.0}
    with pytest.raises(TrainingAlarm, match="raw MeanFlow loss is 7 x"):
        watch.on_alarm = "stop"
        watch.check_alarms(10)


# --- alarms in small runs ----------------------------------------------------------------------------


class Flat(mlp.MLP):
    """The network of the torus on latents as vectors: what goes wrong with time goes wrong in any network."""

    def forward(self, z, t, r):
        return super().forward(z.flatten(1), t, r).view_as(z)


def train(tmp_path, steps=200, on_alarm="stop", **settings):
    """A run of a small network, with a look every 40 steps."""
    watch = Diagnostics(every=40, evaluations=4, n=4, after=60, on_alarm=on_alarm)
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
        u, people(), steps=steps, times=times, log_every=20, warmup=5, diagnostics=watch, **{**defaults, **settings}
    )
    trainer.fit(study, checkpoint=tmp_path / "last.ckpt", accelerator="cpu", clip=1e9)
    return study


def test_a_healthy_run_raises_no_alarm(tmp_path):
    study = train(tmp_path)
    looks = pd.DataFrame(study.diagnostics.rows)
    assert sorted(looks["step"].unique()) == [0, 40, 80, 120, 160, 200]
    assert "alarm" not in set(looks["quantity"]) and "ratio" in set(looks["quantity"])


def in_thousandths(t, r):
    """The fault of the earlier attempt: times as diffusion code feeds them."""
    return 1000 * t, 1000 * (t - r)


def test_time_multiplied_by_a_thousand_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(embeddings.CONDITIONINGS, "t-h", in_thousandths)
    with pytest.raises(TrainingAlarm, match=r"step 80: du/dt at fixed z is .* Cure: feed t and h raw"):
        train(tmp_path)


def test_differences_in_bf16_are_noticed(tmp_path, monkeypatch):
    def forward_difference(u, z, t, r, v, step=1e-3):
        """As the earlier attempt took it: relative errors of 2^-9 over 1e-3."""
        with torch.autocast("cpu", torch.bfloat16):
            return None, (u(z + step * v, t + step, r).float() - u(z, t, r).float()) / step

    monkeypatch.setitem(
        flow.DERIVATIVES, "differences", lambda *args: flow.two_pass(*args, derivative=forward_difference)
    )
    with pytest.raises(TrainingAlarm, match=r"raw MeanFlow loss is .* Likely cause: the derivative is noisy"):
        train(tmp_path, derivative="differences")


def test_a_raw_loss_that_explodes_behind_a_calm_weighted_one_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(embeddings.CONDITIONINGS, "t-h", in_thousandths)
    study = train(tmp_path, steps=300, lr=0.02, tangent="conditional", on_alarm="warn")
    weighted = [row["loss"] for row in study.history]
    assert max(weighted) < weighted[0] + 1e-4 < 1.1 and study.history[-1]["raw_mf"] > 100 * study.history[3]["raw_mf"]
    assert "explosion" in {row["part"] for row in study.diagnostics.rows if row["quantity"] == "alarm"}


def test_a_stopped_run_leaves_what_led_to_it(tmp_path, monkeypatch):
    monkeypatch.setitem(embeddings.CONDITIONINGS, "t-h", in_thousandths)
    monkeypatch.setattr(training_set, "load_training_set", lambda *_, **__: people(16))
    pd.DataFrame({"scan": ["one"], "person": ["one"], "split": ["train"]}).to_csv(
        tmp_path / "qc.tsv", sep="\t", index=False
    )
    (tmp_path / "stats.json").write_text("{}")
    (tmp_path / "runs").mkdir()
    cfg = yaml.safe_load((ROOT / "config.yaml").read_text())
    cfg["net"] |= {"widths": [16], "attention": [False], "patch": 1, "norm_groups": 8, "head_width": 16}
    cfg["flow"] |= {"flow_matching_steps": 0, "prediction": "u"}
    cfg["train"] |= {"steps": 60, "batch": 8, "warmup": 2, "lr": 5e-3, "log_every": 10}
    cfg["train"]["diagnostics"] = {"every": 10, "evaluations": 2, "n": 2, "on_alarm": "stop"}
    made = {name: tmp_path / "runs" / name for name in ("model", "history", "diagnostics", "card")}
    values = json.dumps({name: cfg[name] for name in ("net", "flow", "train")})
    files = [part for name, path in made.items() for part in (f"--{name}", str(path))]
    inputs = ["--latents", "none", "--stats", str(tmp_path / "stats.json"), "--qc", str(tmp_path / "qc.tsv")]
    inputs += ["--gpus", "0", "--nodes", "1", "--memory_mb", "8000"]
    with pytest.raises(SystemExit, match=r"Cure: feed t and h raw[^$]*What led to it: .*ckpt/diagnostics.csv"):
        train_script.main([*inputs, "--config", values, *files])
    rows = pd.read_csv(tmp_path / "runs" / "ckpt" / "diagnostics.csv")
    assert {"raw_fm", "temporal", "alarm"} <= set(rows["quantity"]) and not made["diagnostics"].exists()
