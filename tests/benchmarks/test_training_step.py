"""Benchmark of the training step: every way takes one step, the published one with torch's own layers."""

import pytest
import torch

from neuromf.benchmarks import memory_mapped, training_step
from neuromf.meanflow import flow, run
from neuromf.nn import forward_mode

SETTINGS = {
    "net": {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4},
    "flow": {"prediction": "x", "prior": {"axes": [2], "block": [1], "shrinkage": [0.1]}},
    "shape": (4, 4, 4, 4), "batch": 4, "device": "cpu", "precision": "32-true",
}  # fmt: skip


@pytest.mark.parametrize("way", training_step.WAYS, ids=str)
def test_every_way_updates_the_network(way, monkeypatch):
    nets, build = [], run.build_network
    monkeypatch.setattr(run, "build_network", lambda *args, **kind: nets.append(build(*args, **kind)) or nets[-1])
    step = training_step.new_step(way, **SETTINGS)
    before = torch.nn.utils.parameters_to_vector(nets[0].parameters())
    step()
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(nets[0].parameters()))
    efficient = any(isinstance(module, forward_mode.Conv3d) for module in nets[0].modules())
    assert efficient == (way[0] != "published")


def test_steps_from_disk_and_from_memory_are_timed(tmp_path):
    settings = SETTINGS | {"shape": (4, 8, 4, 4)}
    memory, disk = memory_mapped.study(tmp_path, gigabytes=0.002, rounds=2, **settings)
    assert (memory["latents"], memory["rate_over_memory"], disk["latents"]) == ("memory", 1.0, "disk")
    assert disk["gigabytes"] == pytest.approx(4 * 256 * 512 * 4 / 1e9) and not list(tmp_path.iterdir())
    assert disk["rate_over_memory"] == pytest.approx(memory["seconds"] / disk["seconds"])


def test_the_published_way_differentiates_every_pair(monkeypatch):
    sizes, exact = [], flow.total_derivative
    monkeypatch.setattr(flow, "total_derivative", lambda u, z, *rest: sizes.append(len(z)) or exact(u, z, *rest))
    for way in (("published", "conditional", 1.0), ("single_pass", "conditional", 0.25)):
        training_step.new_step(way, **SETTINGS)()
    assert sizes == [4, 1]


def test_times_are_medians_without_the_warm_up_round(monkeypatch):
    now, pauses = [0.0], iter([0.2, 0.01, 0.03, 0.02])
    monkeypatch.setattr(training_step.time, "perf_counter", lambda: now[0])

    def step():
        now[0] += next(pauses)

    assert training_step.seconds([step], rounds=3) == [pytest.approx(0.02)]


def test_the_study_has_a_row_for_every_way_relative_to_flow_matching(monkeypatch):
    monkeypatch.setattr(training_step, "peak_mb", lambda way, settings: 10.0 * (1 + way[2]))
    rows = training_step.study(rounds=1, **SETTINGS)
    assert [(row["derivative"], row["tangent"], row["fraction"]) for row in rows] == training_step.WAYS
    assert rows[0]["time_over_fm"] == rows[0]["memory_over_fm"] == 1
    assert rows[-1]["memory_over_fm"] == 2
