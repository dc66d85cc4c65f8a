"""Cost of generating a volume: seconds and peak memory of network and decoder, measured separately after a warm-up.

Seconds are per volume: the time of a call divided by its batch. low and high are the 2.5 and 97.5 percentiles of the
calls. GPU calls are synchronised. Drawing noise and writing files are not timed. Peak memory is measured above the
memory of the loaded networks, see `core.hardware`.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neuromf.core import hardware, seeds
from neuromf.meanflow import flow
from neuromf.meanflow.run import Run, load_run, to_device
from neuromf.vae.maisi import MAISIVAEWrapper
from neuromf.vae.weights import load

logger = logging.getLogger(__name__)

GAIN = 0.95  # a doubled batch must reduce the seconds per volume at least to this fraction
SEARCH_CALLS = 2  # timed calls per batch size in the search for the best batch, after one warm-up call

Call = Callable[[], object]


def measure(*, model: Path, weights: Path, run: str, out: Path, **settings: Any) -> None:
    """Time a trained run and write a table with one row per part, NFE and batch.

    Arguments:
        model: File of the run.
        weights: Autoencoder weights.
        run: Name of the run, written to every row.
        out: CSV file.
        settings: See `generation_times`.
    """
    device = hardware.default_device()
    rows = generation_times(to_device(load_run(model), device), load(weights).to(device), **settings)
    pd.DataFrame(rows).assign(run=run).to_csv(out, index=False, float_format="%.4g")


def generation_times(
    run: Run,
    vae: MAISIVAEWrapper,
    *,
    nfe: Sequence[int],
    timed_seconds: float,
    sampler: str = "meanflow",
    precision: str = "float32",
    repeats: int = 100,
    warmup: int = 10,
    largest_batch: int = 64,
    memory_mb: float | None = None,
) -> list[dict[str, Any]]:
    """Times of the network at each NFE and of the decoder, at batch 1 and at the best batch.

    Arguments:
        run: Trained run.
        vae: Autoencoder on the device of the run.
        nfe: Numbers of network evaluations.
        timed_seconds: Time budget of each row in seconds; see `call_times`.
        sampler: Key of `flow.SAMPLERS`.
        precision: Precision of the decoder, "float32" or "bf16"; the network always uses float32.
        repeats, warmup: Largest numbers of timed calls and of warm-up calls.
        largest_batch: Largest batch in the search for the best batch.
        memory_mb: Memory limit of the search on a CPU in MB, where a process that runs out of memory is killed.

    Returns:
        Rows with part ("network" or "decoder"), nfe (None for the decoder), batch, n (timed calls), seconds_per_volume
        (median), low, high, peak_mb, device and precision.
    """
    budget: dict[str, Any] = {"seconds": timed_seconds, "repeats": repeats, "warmup": warmup, "device": run.device}
    search: dict[str, Any] = {"largest": largest_batch, "device": run.device, "memory_mb": memory_mb}

    def network(batch: int, n: int) -> Call:
        return network_call(run, batch, nfe=n, sampler=sampler)

    def decoder(batch: int) -> Call:
        return decoder_call(run, vae, batch, precision=precision)

    best = best_batch(lambda batch: network(batch, min(nfe)), **search)
    cases: list[tuple[int | None, int]] = [(n, batch) for n in nfe for batch in sorted({1, best})]
    cases += [(None, batch) for batch in sorted({1, best_batch(decoder, **search)})]
    rows = []
    for n, batch in cases:
        part, call = ("decoder", decoder(batch)) if n is None else ("network", network(batch, n))
        row = {"part": part, "nfe": n, "batch": batch, **timing(call, batch, **budget)}
        used = precision_name(precision if part == "decoder" else "float32", run.device)
        rows.append({**row, "device": hardware.device_name(run.device), "precision": used})
        label = part if n is None else f"{part}, NFE {n}"
        logger.info("%s, batch %d: %.3g s per volume", label, batch, row["seconds_per_volume"])
    return rows


def network_call(run: Run, batch: int, *, nfe: int, sampler: str) -> Call:
    """A call that maps a batch of noise to latents."""
    eps, times = _noise(run, batch), flow.uniform_times(nfe)
    return lambda: flow.SAMPLERS[sampler](run.u, eps, times)


def decoder_call(run: Run, vae: MAISIVAEWrapper, batch: int, *, precision: str) -> Call:
    """A call that decodes a batch of latents."""
    latent = _noise(run, batch)

    @torch.no_grad()
    def decode() -> None:
        with torch.autocast(run.device, torch.bfloat16, enabled=precision == "bf16"):
            vae.decode(latent)

    return decode


def _noise(run: Run, batch: int) -> torch.Tensor:
    return seeds.noise(0, list(range(batch)), run.shape).to(run.device)


def timing(call: Call, batch: int, *, device: str, **budget: Any) -> dict[str, float]:
    """n, seconds_per_volume, low and high (NaN for fewer than three calls) and peak_mb of a call."""
    memory = hardware.reset_peak(device)
    times = np.array(call_times(call, device=device, **budget)) / batch
    low, high = np.percentile(times, [2.5, 97.5]) if len(times) > 2 else (math.nan, math.nan)
    peak_mb = hardware.peak_mb(device) - memory
    return {"n": len(times), "seconds_per_volume": float(np.median(times)), "low": float(low), "high": float(high),
            "peak_mb": peak_mb}  # fmt: skip


def call_times(call: Call, *, seconds: float, repeats: int, warmup: int, device: str = "cpu") -> list[float]:
    """Seconds of each call after a warm-up, within a time budget.

    The warm-up ends after a fifth of the budget, the timed calls when it is spent; there is at least one of each.
    """
    start = time.perf_counter()
    for _ in range(warmup):
        _seconds(call, device)
        if time.perf_counter() - start > seconds / 5:
            break
    times: list[float] = []
    while len(times) < repeats and (not times or time.perf_counter() - start < seconds):
        times.append(_seconds(call, device))
    return times


def _seconds(call: Call, device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def best_batch(
    new_call: Callable[[int], Call], *, largest: int, device: str = "cpu", memory_mb: float | None = None
) -> int:
    """Largest of the batches 1, 2, 4, ... up to which each doubling fits into memory and saves 5 % per volume."""
    batch, fastest = 1, math.inf
    while True:
        try:
            found = timing(new_call(batch), batch, device=device, seconds=math.inf, repeats=SEARCH_CALLS, warmup=1)
        except RuntimeError as error:
            if batch == 1 or not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
                raise
            logger.info("batch %d does not fit into memory", batch)
            return batch // 2
        if found["seconds_per_volume"] > GAIN * fastest:
            return batch // 2
        if 2 * batch > largest or (memory_mb and device == "cpu" and 2 * found["peak_mb"] > memory_mb):
            return batch
        batch, fastest = 2 * batch, found["seconds_per_volume"]


def precision_name(precision: str, device: str) -> str:
    """The precision, with a note if a GPU rounds float32 convolutions to TF32."""
    tf32 = device == "cuda" and precision == "float32" and torch.backends.cudnn.allow_tf32
    return f"{precision}, TF32 convolutions" if tf32 else precision
