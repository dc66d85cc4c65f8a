"""What a volume costs: warm calls, per volume, the network and the decoder apart, within a budget."""

import json
import math
import multiprocessing
import sys
import time

import pandas as pd
import pytest
import torch

from neuromf.benchmarks import timing
from neuromf.core import seeds
from neuromf.meanflow.run import Run, build_network, save_run, to_device
from neuromf.vae import maisi, weights
from workflow_scripts import timing as script

NET = {"widths": [8, 16], "res_blocks": 1, "attention": [False, True], "head_width": 8, "norm_groups": 4, "patch": 1}
SHAPE = (4, 4, 4, 4)
STATS = {"mean": [0.0] * 4, "std": [1.0] * 4, "shape": list(SHAPE)}
COLUMNS = ["part", "evaluations", "batch", "n", "seconds_per_volume", "low", "high", "peak_mb", "device", "precision"]


@pytest.fixture(scope="module")
def decoder():
    return weights.build_autoencoder(maisi.COMPACT, None, seed=0)


@pytest.fixture
def run():
    return Run(build_network(NET, "u").requires_grad_(False).eval(), STATS, SHAPE)


class Pauses:
    """Work that takes the given seconds, call by call, the last of them for ever."""

    def __init__(self, *seconds):
        self.seconds, self.calls = seconds, 0

    def __call__(self):
        time.sleep(self.seconds[min(self.calls, len(self.seconds) - 1)])
        self.calls += 1


# --- how it is timed ---------------------------------------------------------------------------------


def test_first_calls_are_not_counted_and_the_rest_are():
    work = Pauses(0.05, 0.05, 0.001)
    taken = timing.timed(work, seconds=10, repeats=20, dropped=2)
    assert len(taken) == 20 and work.calls == 22
    assert 0.001 <= min(taken) and sorted(taken)[15] < 0.03


@pytest.mark.parametrize(("pause", "most"), [(0.02, 10), (0.3, 1)])
def test_a_budget_ends_it_early_but_never_before_one_call_is_counted(pause, most):
    start = time.perf_counter()
    taken = timing.timed(Pauses(pause), seconds=0.2, repeats=100, dropped=10)
    assert 1 <= len(taken) <= most and min(taken) >= pause
    assert time.perf_counter() - start < 5


def test_a_gpu_is_waited_for_at_every_call(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(time.sleep(0.005)))
    taken = timing.timed(lambda: None, seconds=10, repeats=3, dropped=2, device="cuda")
    assert len(waits) == 5 and min(taken) >= 0.005


def test_a_row_is_per_volume_with_the_median_and_the_middle_of_its_calls():
    pauses = Pauses(0.0, 0.02, 0.02, 0.3, 0.02)
    row = timing.measured(pauses, 20, device="cpu", seconds=10, repeats=4, dropped=1)
    assert row["n"] == 4 and 0.001 <= row["seconds_per_volume"] < 0.01
    assert 0.001 <= row["low"] <= row["seconds_per_volume"] < row["high"] and row["high"] > 0.01


def test_two_calls_have_no_interval():
    row = timing.measured(lambda: None, 1, device="cpu", seconds=10, repeats=2, dropped=1)
    assert row["n"] == 2 and math.isnan(row["low"]) and math.isnan(row["high"])


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of a process are read from /proc")
def peaks(sizes_mb):
    """Peaks that are measured of calls that need so many MB for a moment, in a process of their own."""
    held = torch.ones(8_000_000)  # 32 MB that stay, and are not part of it
    how = {"device": "cpu", "seconds": 10, "repeats": 2, "dropped": 1}
    found = [timing.measured(lambda mb=mb: torch.ones(mb * 250_000), 1, **how)["peak_mb"] for mb in sizes_mb]
    return found if len(held) else []


def test_the_peak_is_what_a_call_needed_for_a_moment():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(peaks, ([160, 80],)) == pytest.approx([160, 80], abs=8)


# --- the best batch ----------------------------------------------------------------------------------


def costs(monkeypatch, seconds, peak_mb=None):
    """Let batches cost what is told: seconds per volume, and MB."""
    found = {batch: {"seconds_per_volume": s, "peak_mb": (peak_mb or {}).get(batch, 1)} for batch, s in seconds.items()}
    monkeypatch.setattr(timing, "measured", lambda work, batch, **kind: found[batch])


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 8, 2: 5, 4: 3, 8: 2.99}, 4),
        ({1: 8, 2: 7.9}, 1),
        ({1: 8, 2: 5, 4: 3, 8: 2, 16: 1}, 16),
    ],
)
def test_the_best_batch_is_where_doubling_stops_to_gain_or_the_largest(monkeypatch, seconds, best):
    costs(monkeypatch, seconds)
    assert timing.best_batch(lambda batch: None, largest=16) == best


def test_a_batch_that_would_not_fit_is_not_tried(monkeypatch):
    costs(monkeypatch, {1: 8, 2: 4, 4: 2, 8: 1}, {1: 300, 2: 600, 4: 1200})
    assert timing.best_batch(lambda batch: None, largest=64, memory_mb=2000) == 4


def test_running_out_of_memory_ends_the_search_and_other_errors_end_the_run(monkeypatch):
    costs(monkeypatch, {1: 8, 2: 4, 4: 2})

    def failing(error, above):
        def make(batch):
            if batch > above:
                raise error

        return make

    full = torch.OutOfMemoryError("CUDA out of memory")
    assert timing.best_batch(failing(full, above=2), largest=64) == 2
    for error, above in ((RuntimeError("shapes do not fit"), 2), (full, 0)):
        with pytest.raises(RuntimeError, match=str(error)):
            timing.best_batch(failing(error, above), largest=64)


# --- the study ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "evaluations"), [("mean", 1), ("mean", 3), ("heun", 4)])
def test_the_network_is_evaluated_as_often_as_told_on_a_batch_of_noise(sampler, evaluations):
    seen = []

    def u(z, t, r):
        seen.append(z)
        return torch.zeros_like(z)

    timing.network(Run(u, STATS, SHAPE), 3, evaluations, sampler)()
    assert len(seen) == evaluations and torch.equal(seen[0], seeds.noise(0, [0, 1, 2], SHAPE))


def test_the_decoder_is_given_a_batch_of_latents(run, decoder, monkeypatch):
    shapes, decode = [], decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda latent: shapes.append(decode(latent).shape))
    timing.decoder(run, decoder, 2, "float32")()
    assert shapes == [(2, 1, 16, 16, 16)]


def test_the_study_has_a_row_for_each_part_evaluations_and_batch(run, decoder, monkeypatch):
    monkeypatch.setattr(timing, "best_batch", lambda make, **kind: 4)
    rows = timing.study(run, decoder, evaluations=[1, 6], seconds=0.3, repeats=5, dropped=1)
    assert [(row["part"], row["evaluations"], row["batch"]) for row in rows] == [
        *[("network", n, batch) for n in (1, 6) for batch in (1, 4)], ("decoder", None, 1), ("decoder", None, 4)
    ]  # fmt: skip
    assert all(list(row) == COLUMNS for row in rows)
    assert all(0 < row["seconds_per_volume"] and 1 <= row["n"] <= 5 for row in rows)
    assert rows[2]["seconds_per_volume"] > 2 * rows[0]["seconds_per_volume"]  # six evaluations against one
    assert {row["precision"] for row in rows} == {"float32"} and all("thread" in row["device"] for row in rows)


def test_precision_says_where_a_gpu_rounds(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert timing.exactness("float32", "cuda") == "float32, TF32 convolutions"
    assert (timing.exactness("float32", "cpu"), timing.exactness("bf16", "cuda")) == ("float32", "bf16")


def test_the_script_times_a_run_from_its_files(run, decoder, tmp_path):
    save_run(tmp_path / "model.pt", {"ema": run.u}, early=seeds.noise(0, [0], SHAPE), net=NET, stats=STATS)
    weights.save_weights(decoder, tmp_path / "vae.safetensors")
    config = {"evaluations": [1, 2], "sampler": "mean", "seconds": 0.05, "repeats": 3, "dropped": 1, "largest_batch": 2}
    line = ["--model", tmp_path / "model.pt", "--weights", tmp_path / "vae.safetensors", "--run", "meanflow"]
    script.main([*map(str, line), "--config", json.dumps(config), "--out", str(tmp_path / "generation.csv")])
    table = pd.read_csv(tmp_path / "generation.csv")
    assert list(table) == [*COLUMNS, "run"] and set(table["run"]) == {"meanflow"}
    assert set(table["part"]) == {"network", "decoder"} and set(table["evaluations"].dropna()) == {1, 2}


@pytest.mark.gpu
def test_a_gpu_reports_its_name_and_its_peak(run, decoder):
    rows = timing.study(to_device(run, "cuda"), decoder.to("cuda"), evaluations=[1], seconds=1, largest_batch=2)
    assert all(row["device"] == torch.cuda.get_device_name() and row["peak_mb"] > 0 for row in rows)
