"""Memory of a job from real tensors on the CPU: what autograd stores, and what torch's allocator holds at the peak.

Two small batches are run. Their memory is extrapolated to the batch of the job, because copies of weights in bfloat16
do not grow with the batch. States are computed from the number of weights. It shares no counting with `memory_fake`.

Tensors of a graph that is dropped before the backward pass (`flow.single_pass`) count as activations here, not there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from neuromf.benchmarks.memory_jobs import (
    Account,
    backward,
    contents,
    gpu_autocast,
    megabytes,
    moving_pairs,
    new_module,
    states,
)
from neuromf.meanflow.module import MeanFlowModule

BATCHES = (2, 4)  # latents of the steps that are run


class Peak:
    """Largest memory of an `allocations` block above that at its start, in MB."""

    megabytes = 0.0


@contextmanager
def allocations() -> Iterator[Peak]:
    """Record every allocation of torch on the CPU; the result is complete after the block."""
    peak = Peak()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        yield peak
    results = profiler.profiler and profiler.profiler.kineto_results
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    held = highest = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        highest = max(highest, held)
    peak.megabytes = highest / 1e6


class Stored:
    """Distinct tensors stored for the backward pass, without those that exist anyway."""

    def __init__(self, existing: list[Tensor]) -> None:
        self.existing = {a.untyped_storage().data_ptr() for a in existing}
        self.sizes: dict[int, int] = {}

    def pack(self, a: Tensor) -> Tensor:
        if a._is_zerotensor():  # a tangent of zeros, without memory
            return a
        storage = a.untyped_storage()
        if storage.data_ptr() not in self.existing:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return a

    @property
    def megabytes(self) -> float:
        return sum(self.sizes.values()) / 1e6


def training_account(*, train: dict, flow: dict, **settings: Any) -> Account:
    """Account of a training from real steps with `BATCHES` latents; arguments as of `memory_jobs.new_module`."""
    steps = []
    for batch in BATCHES:
        moving = round(batch * moving_pairs(flow, train["batch"]) / train["batch"])
        module = new_module(flow=flow, train=train, batch=batch, moving=moving, **settings)
        steps.append(step_memory(module, train["precision"]))
    activations, above = (extrapolate(values, train["batch"]) for values in zip(*steps, strict=True))
    return Account(**states(module), activations=activations, transient=above - activations)


def step_memory(module: MeanFlowModule, precision: str) -> tuple[float, float]:
    """Stored tensors and peak of one step in MB, above the memory of the module and its gradients."""
    for parameter in module.u.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    stored = Stored(contents(module))
    with allocations() as peak:
        with gpu_autocast(precision), torch.autograd.graph.saved_tensors_hooks(stored.pack, lambda a: a):
            loss = module.training_step(None, 0)
        backward(loss)
    return stored.megabytes, peak.megabytes


def extrapolate(values: tuple[float, ...], batch: int) -> float:
    """Value at `batch` on the line through the values at `BATCHES`."""
    (low, high), (first, second) = BATCHES, values
    return first + (batch - low) * (second - first) / (high - low)


def inference_account(
    build: Callable[[], tuple[list[nn.Module], Callable[[], Tensor]]], *, scale: float = 1.0
) -> Account:
    """Account of a real call without gradient, `scale` times smaller than the job; see `memory_fake`."""
    nets, call = build()
    with torch.no_grad(), allocations() as peak:
        call()
    return Account(parameters=megabytes(*contents(*nets)), transient=scale * peak.megabytes)
