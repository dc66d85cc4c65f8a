"""The benchmark of the autoencoder compares equal networks, in turns, against MONAI's own class."""

import pandas as pd
import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiConvolution, MaisiGroupNorm3D

from neuromf.benchmarks import vae as bench_vae
from neuromf.vae import maisi, weights
from workflow_scripts import bench_vae as script

SIDE = 48  # latents of 12, which four pieces divide


@pytest.fixture
def small(monkeypatch):
    """Both networks a hundred times smaller, of the same layout."""
    architecture, build = maisi.Architecture(widths=(8, 8, 8), res_blocks=1, norm_groups=4), bench_vae.build
    monkeypatch.setattr(bench_vae, "build", lambda name, num_splits: build(name, architecture, num_splits=num_splits))


def test_monais_network_is_as_documented_and_ours_is_not(small):
    theirs, ours = (bench_vae.build(name, num_splits=4) for name in ("MONAI", "ours"))
    splits = [m.num_splits for m in theirs.modules() if isinstance(m, MaisiConvolution)]
    assert set(splits) == {4} and any(type(m) is MaisiGroupNorm3D for m in theirs.modules())
    assert not any(isinstance(m, MaisiGroupNorm3D) for m in ours.modules()) and ours.num_splits == 1
    for name, weight in theirs.net.state_dict().items():
        assert torch.equal(weight, ours.net.state_dict()[name]), name


def test_the_network_timed_is_the_published_one():
    assert weights.count_parameters(bench_vae.build("MONAI")) == {"parameters": 20_944_897, "entries": 130}


@pytest.mark.parametrize("task", bench_vae.TASKS)
def test_ours_gives_what_monais_gives_and_bf16_nearly(small, task):
    rows = bench_vae.timed(task, side=SIDE, rounds=1, num_splits=4)
    assert rows[0]["relative_error"] == 0
    assert 0 < rows[1]["relative_error"] < 1e-4 < rows[2]["relative_error"] < 0.1


def test_times_are_medians_in_turns_without_the_first_round(small, monkeypatch):
    turns = []
    seconds = {("MONAI", "float32"): [9, 4, 5, 9], ("ours", "float32"): [9, 1, 2, 3], ("ours", "bf16"): [9, 1, 1, 1]}
    now = [0.0]

    def once(net, precision, task, x):
        way = ("MONAI" if isinstance(net, bench_vae.Documented) else "ours", precision)
        turns.append(way)
        now[0] += seconds[way][turns.count(way) - 1]
        return torch.ones(1)

    monkeypatch.setattr(bench_vae, "once", once)
    monkeypatch.setattr(bench_vae.time, "perf_counter", lambda: now[0])
    rows = bench_vae.timed("encode", side=SIDE, rounds=3, num_splits=4)
    assert [row["seconds"] for row in rows] == [5, 2, 1] and turns == list(bench_vae.WAYS) * 4


def test_the_table_has_a_row_for_every_task_and_way(small, monkeypatch, tmp_path):
    peaks = iter(range(100, 106))
    monkeypatch.setattr(bench_vae, "peak_mb", lambda *_, **__: float(next(peaks)))
    script.main(["--config", f'{{"side": {SIDE}, "rounds": 1}}', "--out", str(tmp_path / "vae.csv")])
    table = pd.read_csv(tmp_path / "vae.csv")
    assert list(zip(table.task, table.network, table.precision, strict=True)) == [
        (task, *way) for task in bench_vae.TASKS for way in bench_vae.WAYS
    ]
    assert (table.times_faster[[0, 3]] == 1).all() and list(table.peak_mb) == list(range(100, 106))
    assert (table.seconds > 0).all() and table.device.str.startswith("cpu").all()


@pytest.mark.slow
def test_a_peak_is_that_of_a_process_of_its_own():
    waste = torch.ones(400_000_000 // 4)  # 400 MB of this process, which are nobody else's
    small, large = (bench_vae.peak_mb(("ours", "float32"), "encode", side=side, num_splits=4) for side in (16, 80))
    assert 200 < small < large and waste.sum() > 0
    assert large - small > 4 * 80**3 * 64 / 1e6  # two feature maps of 64 channels at the least
