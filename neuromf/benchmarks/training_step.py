"""Cost of a training step: time and peak memory of every way to compute du/dt, for one network and one batch.

Times are medians over rounds in which each way is timed once, so that other load on the machine affects all of them
alike. Peak memory is measured for one way at a time: on a CPU in a fresh process, on a GPU from the allocator.
"""

import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuromf.core import hardware
from neuromf.meanflow import flow as meanflow
from neuromf.meanflow import run
from neuromf.meanflow.gaussian_prior import GaussianPrior
from neuromf.meanflow.module import MeanFlowModule
from neuromf.nn import forward_mode
from neuromf.vae.training_set import MemoryMappedLatents

logger = logging.getLogger(__name__)

WAYS = [  # derivative, tangent, fraction of pairs with r < t
    ("flow matching", "conditional", 0.0),
    *[(derivative, tangent, fraction) for fraction in (0.5, 0.25) for derivative in ("single_pass", "two_pass")
      for tangent in ("conditional", "predicted")],
    ("published", "conditional", 1.0),
]  # fmt: skip


def published(u: meanflow.MeanVelocity, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """u and du/dt of the entire batch, including pairs with r = t, in one forward-mode pass (MF, algorithm 1)."""
    out, du_dt = meanflow.total_derivative(u, z, t, r, v)
    return out, du_dt.detach()


def use_torch_layers(net: nn.Module) -> nn.Module:
    """Restore torch's own convolutions and normalisations, in place; inverse of `forward_mode.lean_forward_mode`."""
    for module in net.modules():
        for ours, theirs in ((forward_mode.Conv3d, nn.Conv3d), (forward_mode.GroupNorm, nn.GroupNorm)):
            if type(module) is ours:
                module.__class__ = theirs  # type: ignore[assignment]  # its parent class
    return net


def noise_latents(n: int, shape: tuple, seed: int = 0) -> Tensor:
    """Gaussian noise of shape (n, *shape), in place of latents."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def new_step(
    way: tuple,
    *,
    net: dict,
    flow: dict,
    shape: tuple,
    batch: int,
    device: str,
    precision: str,
    latents: Tensor | MemoryMappedLatents | None = None,
) -> Callable[[], None]:
    """A function that performs one training step: batch, loss, gradient, optimiser, EMA.

    Arguments:
        way: Entry of `WAYS`.
        net: Keyword arguments of `UNet`.
        flow: Config section meanflow.flow, of which prediction and prior are used.
        shape: Latent shape (C, I, J, K).
        batch: Latents per batch.
        device: "cpu" or "cuda".
        precision: "32-true" or "bf16-mixed".
        latents: Training latents; noise on the device if None.
    """
    derivative, tangent, fraction = way
    if latents is None:
        latents = noise_latents(64, shape).to(device)
    axes, block = max(flow["prior"]["axes"]), max(flow["prior"]["block"])  # the dearest candidate
    prior = GaussianPrior.fit(latents, axes, block=block) if flow["prediction"] == "x" else None
    u = run.build_network(net, flow["prediction"], shape=shape, prior=prior)
    times = {"fraction_r_equals_t": 1 - fraction, "fraction_uniform": fraction}
    known = derivative if derivative in meanflow.DERIVATIVES else "single_pass"
    module = MeanFlowModule(u, latents, times=times, tangent=tangent, derivative=known, batch=batch, steps=1, lr=1e-4,
                            seed=0).to(device)  # fmt: skip
    if derivative == "published":
        module.derivative = published  # type: ignore[assignment]  # a function of the same arguments
        use_torch_layers(module)
    optimiser = torch.optim.AdamW(module.u.parameters(), lr=1e-4)
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")

    def step() -> None:
        with autocast:
            loss = module.training_step(None, 0)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        module.drawn += 1
        module.ema.update(module.u, batch, int(module.drawn) * batch)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(steps: list, rounds: int) -> list[float]:
    """Median seconds of each step over `rounds` rounds, after one warm-up round."""
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, times in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        logger.info("round %d of %d", number, rounds)
    return [statistics.median(times[1:]) for times in taken]


def peak_mb(way: tuple, settings: dict) -> float:
    """Peak memory of three steps in MB, above that before the first step."""
    if settings["device"] == "cuda":
        return _peak(way, settings)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (way, settings))


def _peak(way: tuple, settings: dict) -> float:
    step = new_step(way, **settings)
    before = hardware.reset_peak(settings["device"])
    for _ in range(3):
        step()
    return hardware.peak_mb(settings["device"]) - before


def study(*, rounds: int = 7, **settings: Any) -> list[dict]:
    """Benchmark every way; `settings` are arguments of `new_step`, the device defaults to the GPU if there is one.

    Returns:
        Rows with derivative, tangent, fraction (of pairs with r < t), seconds, peak_mb, both relative to flow matching
        (time_over_fm, memory_over_fm), and the name of the device.
    """
    settings = {"device": hardware.default_device(), **settings}
    peaks = [peak_mb(way, settings) for way in WAYS]
    times = seconds([new_step(way, **settings) for way in WAYS], rounds)
    rows = []
    for way, taken, peak in zip(WAYS, times, peaks, strict=True):
        row = dict(zip(("derivative", "tangent", "fraction"), way, strict=True))
        row |= {"seconds": taken, "time_over_fm": taken / times[0]}
        rows.append({**row, "peak_mb": peak, "memory_over_fm": peak / peaks[0], "device": hardware.device_name()})
    return rows
