"""What a generated volume costs: seconds and memory of the network and of the decoder, apart, both warm.

Seconds are per volume: those of a call over its batch; low and high are the middle 95 % of the calls. Calls on a GPU
are waited for. Noise is drawn and files are written outside of what is timed. Peaks are of memory above that of the
loaded networks: of the process on a CPU (Linux only, missing elsewhere), of the allocator on a GPU.
"""

import ctypes
import logging
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuromf.core import seeds
from neuromf.meanflow import sample
from neuromf.meanflow.run import Run
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)

GAIN = 0.95  # a doubled batch is worth it where it takes at most this share of the seconds per volume
SEARCH = 3  # calls at each size in the search for the best batch, the first of them not counted


def study(
    run: Run,
    vae: MAISIVAEWrapper,
    *,
    evaluations: Sequence[int],
    seconds: float,
    sampler: str = "mean",
    precision: str = "float32",
    repeats: int = 100,
    dropped: int = 10,
    largest_batch: int = 64,
    memory_mb: float | None = None,
) -> list[dict]:
    """Rows of the network at each number of evaluations and of the decoder, at batch 1 and at the best batch.

    Arguments:
        seconds: Time budget of each row; see `timed`.
        precision: Of the decoder, "float32" or "bf16"; the network is float32, as in `generate`.
        repeats, dropped: Calls that are timed, and calls before those.
        largest_batch: Where the search for the best batch ends.
        memory_mb: No batch is tried that would need more, on a CPU, where running out kills the process.

    Returns:
        Dicts with part (network, decoder), evaluations (None for the decoder), batch, n (calls timed),
        seconds_per_volume (median), low, high, peak_mb, device and precision.
    """
    budget: dict[str, Any] = {"seconds": seconds, "repeats": repeats, "dropped": dropped}
    search: dict[str, Any] = {"largest": largest_batch, "device": run.device, "memory_mb": memory_mb}
    best = best_batch(lambda batch: network(run, batch, min(evaluations), sampler), **search)
    cases: list[tuple[str, int | None, int, Callable[[], object]]]
    cases = [("network", n, batch, network(run, batch, n, sampler)) for n in evaluations for batch in sorted({1, best})]
    best = best_batch(lambda batch: decoder(run, vae, batch, precision), **search)
    cases += [("decoder", None, batch, decoder(run, vae, batch, precision)) for batch in sorted({1, best})]
    rows = []
    for part, n, batch, work in cases:
        precise = exactness(precision if part == "decoder" else "float32", run.device)
        row = {"part": part, "evaluations": n, "batch": batch, **measured(work, batch, device=run.device, **budget)}
        rows.append({**row, "device": device_name(run.device), "precision": precise})
        logger.info("%s, %s evaluations, batch %d: %.3g s per volume", part, n, batch, rows[-1]["seconds_per_volume"])
    return rows


# --- what is timed -----------------------------------------------------------------------------------


def network(run: Run, batch: int, evaluations: int, sampler: str) -> Callable[[], object]:
    """A call that takes a batch of noise to latents."""
    solve, eps = sample.solver(sampler, evaluations), _latents(run, batch)
    return lambda: solve(run.u, eps)


def decoder(run: Run, vae: MAISIVAEWrapper, batch: int, precision: str) -> Callable[[], object]:
    """A call that decodes a batch of latents."""
    latent = _latents(run, batch)

    @torch.no_grad()
    def work() -> None:
        with torch.autocast(run.device, torch.bfloat16, enabled=precision == "bf16"):
            vae.decode(latent)

    return work


def _latents(run: Run, batch: int) -> torch.Tensor:
    return seeds.noise(0, list(range(batch)), run.shape).to(run.device)


# --- how it is timed ---------------------------------------------------------------------------------


def timed(
    work: Callable[[], object], *, seconds: float, repeats: int, dropped: int, device: str = "cpu"
) -> list[float]:
    """Seconds of each call after some that are not counted, within a time budget.

    Uncounted calls end after a fifth of the budget, counted ones when it is spent; there is at least one of each.
    """
    start = time.perf_counter()
    for _ in range(dropped):
        _wait(work, device)
        if time.perf_counter() - start > seconds / 5:
            break
    taken: list[float] = []
    while len(taken) < repeats and (not taken or time.perf_counter() - start < seconds):
        taken.append(_wait(work, device))
    return taken


def _wait(work: Callable[[], object], device: str) -> float:
    """Seconds until what was asked for is done."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(work: Callable[[], object], batch: int, *, device: str, **budget: Any) -> dict:
    """Part of a row: n, seconds_per_volume, low and high (missing below three calls) and peak_mb."""
    before = _start_peak(device)
    each = np.array(timed(work, device=device, **budget)) / batch
    low, high = np.percentile(each, [2.5, 97.5]) if len(each) > 2 else (math.nan, math.nan)
    about = {"n": len(each), "seconds_per_volume": float(np.median(each)), "low": float(low), "high": float(high)}
    return {**about, "peak_mb": _peak_mb(device) - before}


def best_batch(
    make: Callable[[int], Callable[[], object]], *, largest: int, device: str = "cpu", memory_mb: float | None = None
) -> int:
    """The batch, among 1, 2, 4, 8 and so on, from which doubling gains less than 5 % per volume or is out of memory."""
    batch, fastest = 1, math.inf
    while True:
        try:
            here = measured(make(batch), batch, device=device, seconds=math.inf, repeats=SEARCH - 1, dropped=1)
        except RuntimeError as error:
            if batch == 1 or not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
                raise
            logger.info("batch %d is out of memory", batch)
            return batch // 2
        if here["seconds_per_volume"] > GAIN * fastest:
            return batch // 2
        if 2 * batch > largest or (memory_mb and device == "cpu" and 2 * here["peak_mb"] > memory_mb):
            return batch
        batch, fastest = 2 * batch, here["seconds_per_volume"]


# --- memory and names --------------------------------------------------------------------------------


def _start_peak(device: str) -> float:
    """Forget peaks of the past; MB in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the peak hides in what was freed but not given back
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return math.nan
    return _status_mb("VmRSS")


def _peak_mb(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return math.nan
    return int(found[1]) / 1e3 if found else math.nan


def device_name(device: str) -> str:
    """Such as "NVIDIA A100-SXM4-80GB", or "AMD EPYC 7763, 2 threads"."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    threads = torch.get_num_threads()
    return f"{found[1].strip() if found else platform.machine()}, {threads} thread{'s' * (threads > 1)}"


def exactness(precision: str, device: str) -> str:
    """The precision as it is: on a GPU float32 convolutions may be rounded to TF32."""
    rounded = device == "cuda" and precision == "float32" and torch.backends.cudnn.allow_tf32
    return f"{precision}, TF32 convolutions" if rounded else precision
