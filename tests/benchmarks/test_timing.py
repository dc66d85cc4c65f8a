"""Generation times: warm calls, seconds per volume, network and decoder separately, within a time budget."""

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
COLUMNS = ["part", "nfe", "batch", "n", "seconds_per_volume", "low", "high", "peak_mb", "device", "precision"]


@pytest.fixture(scope="module")
def decoder():
    return weights.build_autoencoder(maisi.COMPACT, None, seed=0)


@pytest.fixture
def run():
    return Run(build_network(NET, "u").requires_grad_(False).eval(), STATS, SHAPE)


class Pauses:
    """A call that takes the given seconds in turn; the last value repeats."""

    def __init__(self, *seconds):
        self.seconds, self.calls = seconds, 0

    def __call__(self):
        time.sleep(self.seconds[min(self.calls, len(self.seconds) - 1)])
        self.calls += 1


def test_warmup_calls_are_not_counted():
    call = Pauses(0.05, 0.05, 0.001)
    times = timing.call_times(call, seconds=10, repeats=20, warmup=2)
    assert len(times) == 20 and call.calls == 22
    assert 0.001 <= min(times) and sorted(times)[15] < 0.03


@pytest.mark.parametrize(("pause", "most"), [(0.02, 10), (0.3, 1)])
def test_the_budget_ends_the_calls_but_at_least_one_is_counted(pause, most):
    start = time.perf_counter()
    times = timing.call_times(Pauses(pause), seconds=0.2, repeats=100, warmup=10)
    assert 1 <= len(times) <= most and min(times) >= pause
    assert time.perf_counter() - start < 5


def test_every_gpu_call_is_synchronised(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(time.sleep(0.005)))
    times = timing.call_times(lambda: None, seconds=10, repeats=3, warmup=2, device="cuda")
    assert len(waits) == 5 and min(times) >= 0.005


def test_seconds_are_per_volume_with_median_and_interval():
    pauses = Pauses(0.0, 0.02, 0.02, 0.3, 0.02)
    row = timing.timing(pauses, 20, device="cpu", seconds=10, repeats=4, warmup=1)
    assert row["n"] == 4 and 0.001 <= row["seconds_per_volume"] < 0.01
    assert 0.001 <= row["low"] <= row["seconds_per_volume"] < row["high"] and row["high"] > 0.01


def test_two_calls_have_no_interval():
    row = timing.timing(lambda: None, 1, device="cpu", seconds=10, repeats=2, warmup=1)
    assert row["n"] == 2 and math.isnan(row["low"]) and math.isnan(row["high"])


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of a process are read from /proc")
def peaks(sizes_mb):
    """Measured peaks of calls that allocate some MB, for a separate process."""
    constant = torch.ones(8_000_000)  # 32 MB that do not count
    options = {"device": "cpu", "seconds": 10, "repeats": 2, "warmup": 1}
    found = [timing.timing(lambda mb=mb: torch.ones(mb * 250_000), 1, **options)["peak_mb"] for mb in sizes_mb]
    return found if len(constant) else []


def test_the_peak_is_the_largest_allocation_of_a_call():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(peaks, ([160, 80],)) == pytest.approx([160, 80], abs=8)


def costs(monkeypatch, seconds, peak_mb=None):
    """Set seconds per volume, and peak MB, by batch."""
    found = {batch: {"seconds_per_volume": s, "peak_mb": (peak_mb or {}).get(batch, 1)} for batch, s in seconds.items()}
    monkeypatch.setattr(timing, "timing", lambda call, batch, **options: found[batch])


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 8, 2: 5, 4: 3, 8: 2.99}, 4),
        ({1: 8, 2: 7.9}, 1),
        ({1: 8, 2: 5, 4: 3, 8: 2, 16: 1}, 16),
    ],
)
def test_the_best_batch_is_where_doubling_stops_to_help_or_the_largest(monkeypatch, seconds, best):
    costs(monkeypatch, seconds)
    assert timing.best_batch(lambda batch: None, largest=16) == best


def test_a_batch_above_the_memory_limit_is_not_tried(monkeypatch):
    costs(monkeypatch, {1: 8, 2: 4, 4: 2, 8: 1}, {1: 300, 2: 600, 4: 1200})
    assert timing.best_batch(lambda batch: None, largest=64, memory_mb=2000) == 4


def test_out_of_memory_ends_the_search_and_other_errors_are_raised(monkeypatch):
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


@pytest.mark.parametrize(("sampler", "nfe"), [("meanflow", 1), ("meanflow", 3), ("euler", 4)])
def test_the_network_is_evaluated_nfe_times_on_a_batch_of_noise(sampler, nfe):
    seen = []

    def u(z, t, r):
        seen.append(z)
        return torch.zeros_like(z)

    timing.network_call(Run(u, STATS, SHAPE), 3, nfe=nfe, sampler=sampler)()
    assert len(seen) == nfe and torch.equal(seen[0], seeds.noise(0, [0, 1, 2], SHAPE))


def test_the_decoder_decodes_a_batch_of_latents(run, decoder, monkeypatch):
    shapes, decode = [], decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda latent: shapes.append(decode(latent).shape))
    timing.decoder_call(run, decoder, 2, precision="float32")()
    assert shapes == [(2, 1, 16, 16, 16)]


def test_there_is_a_row_for_each_part_nfe_and_batch(run, decoder, monkeypatch):
    monkeypatch.setattr(timing, "best_batch", lambda new_call, **options: 4)
    rows = timing.generation_times(run, decoder, nfe=[1, 6], timed_seconds=0.3, repeats=5, warmup=1)
    assert [(row["part"], row["nfe"], row["batch"]) for row in rows] == [
        *[("network", n, batch) for n in (1, 6) for batch in (1, 4)], ("decoder", None, 1), ("decoder", None, 4)
    ]  # fmt: skip
    assert all(list(row) == COLUMNS for row in rows)
    assert all(0 < row["seconds_per_volume"] and 1 <= row["n"] <= 5 for row in rows)
    assert rows[2]["seconds_per_volume"] > 2 * rows[0]["seconds_per_volume"]  # NFE 6 against NFE 1
    assert {row["precision"] for row in rows} == {"float32"} and all("thread" in row["device"] for row in rows)


def test_precision_names_tf32_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert timing.precision_name("float32", "cuda") == "float32, TF32 convolutions"
    assert (timing.precision_name("float32", "cpu"), timing.precision_name("bf16", "cuda")) == ("float32", "bf16")


def test_the_script_times_a_run_from_its_files(run, decoder, tmp_path):
    save_run(tmp_path / "model.pt", {"ema": run.u}, early=seeds.noise(0, [0], SHAPE), net=NET, stats=STATS)
    weights.save_weights(decoder, tmp_path / "vae.safetensors")
    config = {
        "nfe": [1, 2],
        "sampler": "meanflow",
        "timed_seconds": 0.05,
        "repeats": 3,
        "warmup": 1,
        "largest_batch": 2,
    }
    line = ["--model", tmp_path / "model.pt", "--weights", tmp_path / "vae.safetensors", "--run", "meanflow"]
    script.main([*map(str, line), "--config", json.dumps(config), "--out", str(tmp_path / "generation.csv")])
    table = pd.read_csv(tmp_path / "generation.csv")
    assert list(table) == [*COLUMNS, "run"] and set(table["run"]) == {"meanflow"}
    assert set(table["part"]) == {"network", "decoder"} and set(table["nfe"].dropna()) == {1, 2}


@pytest.mark.gpu
def test_a_gpu_reports_its_name_and_its_peak(run, decoder):
    rows = timing.generation_times(
        to_device(run, "cuda"), decoder.to("cuda"), nfe=[1], timed_seconds=1, largest_batch=2
    )
    assert all(row["device"] == torch.cuda.get_device_name() and row["peak_mb"] > 0 for row in rows)
