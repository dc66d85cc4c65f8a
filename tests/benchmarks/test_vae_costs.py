"""The benchmark of the autoencoder compares equal networks, in turns, with MONAI's own class."""

import pandas as pd
import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiConvolution, MaisiGroupNorm3D

from neuromf.benchmarks import vae as bench_vae
from neuromf.vae import maisi, weights
from workflow_scripts import bench_vae as script

SIDE = 48  # latents of 12 positions, which four splits divide


@pytest.fixture
def small(monkeypatch):
    """Both networks with a hundredth of the parameters."""
    architecture, build = maisi.Architecture(widths=(8, 8, 8), res_blocks=1, norm_groups=4), bench_vae.build
    monkeypatch.setattr(bench_vae, "build", lambda name, num_splits: build(name, architecture, num_splits=num_splits))


def test_monai_network_is_as_documented_and_ours_has_native_kernels(small):
    monai, ours = (bench_vae.build(name, num_splits=4) for name in ("MONAI", "ours"))
    splits = [m.num_splits for m in monai.modules() if isinstance(m, MaisiConvolution)]
    assert set(splits) == {4} and any(type(m) is MaisiGroupNorm3D for m in monai.modules())
    assert not any(isinstance(m, MaisiGroupNorm3D) for m in ours.modules()) and ours.num_splits == 1
    for name, weight in monai.net.state_dict().items():
        assert torch.equal(weight, ours.net.state_dict()[name]), name


def test_the_timed_network_is_the_published_one():
    assert weights.count_parameters(bench_vae.build("MONAI")) == {"parameters": 20_944_897, "entries": 130}


@pytest.mark.parametrize("task", bench_vae.TASKS)
def test_our_results_equal_those_of_monai_and_bf16_is_close(small, task):
    errors = [error for _, error in bench_vae.measure_times(task, side=SIDE, rounds=1, num_splits=4)]
    assert errors[0] == 0
    assert 0 < errors[1] < 1e-4 < errors[2] < 0.1


def test_times_are_medians_over_interleaved_rounds_without_the_warm_up(small, monkeypatch):
    turns = []
    seconds = {("MONAI", "float32"): [9, 4, 5, 9], ("ours", "float32"): [9, 1, 2, 3], ("ours", "bf16"): [9, 1, 1, 1]}
    now = [0.0]

    def call(net, precision, task, x):
        variant = ("MONAI" if isinstance(net, bench_vae.MonaiAutoencoder) else "ours", precision)
        turns.append(variant)
        now[0] += seconds[variant][turns.count(variant) - 1]
        return torch.ones(1)

    monkeypatch.setattr(bench_vae, "call", call)
    monkeypatch.setattr(bench_vae.time, "perf_counter", lambda: now[0])
    times = bench_vae.measure_times("encode", side=SIDE, rounds=3, num_splits=4)
    assert [median for median, _ in times] == [5, 2, 1] and turns == list(bench_vae.VARIANTS) * 4


def test_the_table_has_a_row_for_every_task_and_variant(small, monkeypatch, tmp_path):
    peaks = iter(range(100, 106))
    monkeypatch.setattr(bench_vae, "peak_mb", lambda *_, **__: float(next(peaks)))
    script.main(["--config", f'{{"side": {SIDE}, "rounds": 1}}', "--out", str(tmp_path / "vae.csv")])
    table = pd.read_csv(tmp_path / "vae.csv")
    assert list(zip(table.task, table.network, table.precision, strict=True)) == [
        (task, *variant) for task in bench_vae.TASKS for variant in bench_vae.VARIANTS
    ]
    assert (table.times_faster[[0, 3]] == 1).all() and list(table.peak_mb) == list(range(100, 106))
    assert (table.seconds > 0).all() and table.device.str.startswith("cpu").all()


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_fresh_process():
    ballast = torch.ones(400_000_000 // 4)  # 400 MB in this process, which must not be counted
    small, large = (bench_vae.peak_mb(("ours", "float32"), "encode", side=side, num_splits=4) for side in (16, 80))
    assert 200 < small < large and ballast.sum() > 0
    assert large - small > 4 * 80**3 * 64 / 1e6  # at least two feature maps of 64 channels
