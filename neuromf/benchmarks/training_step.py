"""What a training step costs: time and peak memory of every way to compute du/dt, on one network and one batch.

Times are medians over rounds in which every way has its turn, so that a busy machine slows all of them alike. Peaks
are taken one way at a time, each in a process of its own on a CPU (resident memory above that before the first
step), from the allocator on a GPU.
"""

import logging
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuromf.meanflow import flow, run
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.module import MeanFlowModule
from neuromf.nn import forward_mode
from neuromf.vae.training_set import MemoryMappedLatents

logger = logging.getLogger(__name__)

WAYS = [  # derivative, tangent, share of pairs with r < t
    ("flow matching", "conditional", 0.0),
    *[(form, tangent, share) for share in (0.5, 0.25) for form in ("joint", "lean")
      for tangent in ("conditional", "predicted")],
    ("published", "conditional", 1.0),
]  # fmt: skip


def published(u: flow.MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """u and du/dt of the whole batch, whatever its times, in one forward-mode pass (MF, algorithm 1)."""
    out, du_dt = flow.total_derivative(u, z, t, r, v)
    return out, du_dt.detach()


def as_torch_has_them(net: nn.Module) -> nn.Module:
    """The same network with torch's own convolutions and normalisations: undoes `layers.lean_forward_mode`."""
    for module in net.modules():
        for ours, theirs in ((forward_mode.Conv3d, nn.Conv3d), (forward_mode.GroupNorm, nn.GroupNorm)):
            if type(module) is ours:
                module.__class__ = theirs  # type: ignore[assignment]  # its own parent
    return net


def noise_latents(n: int, shape: tuple, seed: int = 0) -> Tensor:
    """Noise in the shape of n latents."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def new_step(
    way: tuple,
    *,
    net: dict,
    flow_: dict,
    shape: tuple,
    batch: int,
    device: str,
    precision: str,
    latents: Tensor | MemoryMappedLatents | None = None,
) -> Callable[[], None]:
    """A function that makes one whole training step this way: pairs, loss, gradient, optimiser, average.

    Latents are noise on the device where none are given.
    """
    form, tangent, share = way
    if latents is None:
        latents = noise_latents(64, shape).to(device)
    base = GaussianPrior.fit(latents, flow_["prior_axes"]) if flow_["prediction"] == "x" else None
    u = run.build_network(net, flow_["prediction"], prior=base)
    times = {"fraction_r_equals_t": 1 - share, "fraction_uniform": share}
    derivative = form if form in flow.DERIVATIVES else "joint"
    study = MeanFlowModule(u, latents, times=times, tangent=tangent, derivative=derivative, batch=batch, steps=1, lr=1e-4,
                      seed=0).to(device)  # fmt: skip
    if form == "published":
        study.derivative = published
        as_torch_has_them(study)
    optimiser = torch.optim.AdamW(study.u.parameters(), lr=1e-4)
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")

    def step() -> None:
        with autocast:
            loss = study.training_step(None, 0)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        study.drawn += 1
        study.ema.update(study.u, batch, int(study.drawn) * batch)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(steps: list, rounds: int) -> list[float]:
    """Median seconds of each step over rounds in which each has its turn; the first round warms up."""
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, times in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        logger.info("round %d of %d", number, rounds)
    return [statistics.median(times[1:]) for times in taken]


def peak_mb(way: tuple, settings: dict) -> float:
    """Largest memory of three steps above that before the first, in MB."""
    if settings["device"] == "cuda":
        return _peak(way, settings)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (way, settings))


def _peak(way: tuple, settings: dict) -> float:
    step = new_step(way, **settings)
    if settings["device"] == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        [step() for _ in range(3)]
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    [step() for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - resident / 1e6


def study(*, rounds: int = 7, **settings: Any) -> list[dict]:
    """Rows of every way: derivative, tangent, share, seconds, peak_mb, and both over those of flow matching."""
    peaks = [peak_mb(way, settings) for way in WAYS]
    times = seconds([new_step(way, **settings) for way in WAYS], rounds)
    rows = []
    for way, taken, peak in zip(WAYS, times, peaks, strict=True):
        row = dict(zip(("derivative", "tangent", "share"), way, strict=True))
        row |= {"seconds": taken, "time_over_fm": taken / times[0]}
        rows.append({**row, "peak_mb": peak, "memory_over_fm": peak / peaks[0]})
    return rows
