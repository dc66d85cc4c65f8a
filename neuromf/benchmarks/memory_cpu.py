"""Memory of a job from real tensors on the CPU: what autograd stores, and what torch's allocator holds at the peak.

A small batch is run, and counts are scaled to the batch of the job. Copies of the weights in bfloat16 do not grow with
the batch. States are computed from the number of weights. It shares no counting with `memory_fake`.

Tensors of a graph that is dropped before the backward pass (`flow.single_pass`) count as activations here, not there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from neuromf.benchmarks.memory_jobs import Account, contents, gpu_autocast, megabytes, moving_pairs, new_module, states

BATCH = 2  # latents of the step that is run


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


def training_account(*, net: dict, flow: dict, train: dict, shape: tuple[int, ...], batch: int = BATCH) -> Account:
    """Account of a training from one real step with `batch` latents; arguments as of `memory_jobs.new_module`."""
    moving = round(batch * moving_pairs(flow, train["batch"]) / train["batch"])
    module = new_module(net=net, flow=flow, train=train, shape=shape, batch=batch, moving=moving)
    for parameter in module.u.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stored = Stored(contents(module))
    with allocations() as peak:
        with gpu_autocast(train["precision"]), torch.autograd.graph.saved_tensors_hooks(stored.pack, lambda a: a):
            loss = module.training_step(None, 0)
        loss.backward()
    copies, scale = cast_copies(module.u, train["precision"]), train["batch"] / batch
    activations = copies + scale * (stored.megabytes - copies)
    above = copies + scale * (peak.megabytes - copies)
    return Account(**states(module), activations=activations, transient=max(0.0, above - activations))


def cast_copies(net: nn.Module, precision: str) -> float:
    """Size in MB of the weights that autocast copies to bfloat16: those of convolutions and linear layers."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv3d | nn.Linear)]
    numbers = sum(p.numel() for layer in layers for p in layer.parameters(recurse=False))
    return 2 * numbers / 1e6 if precision.startswith("bf16") else 0.0


def inference_account(
    build: Callable[[], tuple[list[nn.Module], Callable[[], Tensor]]], *, scale: float = 1.0
) -> Account:
    """Account of a real call without gradient, `scale` times smaller than the job; see `memory_fake`."""
    nets, call = build()
    with torch.no_grad(), allocations() as peak:
        call()
    return Account(parameters=megabytes(*contents(*nets)), transient=scale * peak.megabytes)
