"""Memory and operations of a job without its arithmetic: fake tensors, whose storages torch's MemTracker follows.

Fake tensors have shapes and types but no values, so a network of any size is counted in seconds. What depends on values
is answered by `Answers`: how many pairs of a batch have r < t.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from neuromf.benchmarks.memory_jobs import (
    Account,
    backward,
    contents,
    gpu_autocast,
    moving_pairs,
    new_module,
    optimiser_of,
)
from neuromf.benchmarks.memory_jobs import states as state_sizes
from neuromf.meanflow.module import MeanFlowModule

aten = torch.ops.aten


class Answers(TorchDispatchMode):
    """Answers to what fake tensors do not know: r < t holds for `moving` of `batch` pairs; any number is 1."""

    def __init__(self, batch: int, moving: int) -> None:
        super().__init__()
        self.batch, self.moving = batch, moving
        self.selected: Any = WeakIdKeyDictionary()  # number of true elements of a mask

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return self.number(args[0])
        if func is aten.nonzero.default:
            return args[0].new_empty((self.count(args[0]), args[0].ndim), dtype=torch.long)
        args = tuple([self.as_rows(a) for a in arg] if isinstance(arg, list) else arg for arg in args)
        out = func(*args, **kwargs)
        if (
            isinstance(out, Tensor)
            and out.dtype == torch.bool
            and (out.shape == (self.batch,) or func is aten.any.default)
        ):
            self.selected[out] = self.selection(func, args)
        return out

    def number(self, value: Tensor) -> float | int | bool:
        """The number 1 in the type of `value`; False for `any` of an empty mask."""
        if value.dtype == torch.bool:
            return self.selected.get(value, 1) > 0
        return 1.0 if value.is_floating_point() else 1

    def selection(self, func: Any, args: tuple) -> int:  # noqa: ANN401
        """Number of true elements of the mask that an operation returns."""
        if func is aten.lt.Tensor:
            return self.moving
        if func is aten.eq.Tensor:
            return self.batch - self.moving
        if func is aten.bitwise_not.default:
            return self.batch - self.count(args[0])
        return min(self.count(a) for a in args if isinstance(a, Tensor))

    def count(self, mask: Tensor) -> int:
        return self.selected.get(mask, self.batch)

    def as_rows(self, index: Any) -> Any:  # noqa: ANN401
        """Indices of the rows that a mask selects; anything else as it is."""
        if isinstance(index, Tensor) and index.dtype == torch.bool and index.shape == (self.batch,):
            return index.new_empty(self.count(index), dtype=torch.long)
        return index


@contextmanager
def fake_tensors(batch: int = 1, moving: int = 0) -> Iterator[None]:
    """Context in which tensors have no values, and modules are where they are moved to.

    peft moves new layers to the device of the old ones; torch cannot replace fake parameters.
    """
    move: Any = nn.Module.to
    nn.Module.to = lambda self, *_, **__: self  # type: ignore[assignment,misc]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Answers(batch, moving):
            yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


class StorageTracker(MemTracker):
    """MemTracker without its statistics per module, which fail for frozen networks and for a network called twice."""

    def __init__(self) -> None:
        super().__init__()
        for hook in ("_pre_fw_hook", "_post_fw_hook", "_pre_bw_hook", "_post_bw_hook"):
            setattr(self, hook, lambda *_: None)

    def megabytes(self, kind: str) -> float:
        """Size of all storages in MB; `kind` is "current" or "peak"."""
        return sum(snapshot["Total"] for snapshot in self.get_tracker_snapshot(kind).values()) / 1e6


def training_account(*, train: dict, flow: dict, **settings: Any) -> Account:
    """Account of a training from the second optimiser step on; arguments as of `memory_jobs.new_module`."""
    batch = train["batch"]
    with fake_tensors(batch, moving_pairs(flow, batch)):
        return module_account(new_module(flow=flow, train=train, **settings), train)


def module_account(module: MeanFlowModule, train: dict) -> Account:
    """Account of a module inside `fake_tensors`; of `train` only the precision is used."""
    optimiser = optimiser_of(module)
    _optimise(module, optimiser, train["precision"])  # creates the state of the optimiser
    tracker = StorageTracker()
    tracker.track_external(module.u, *[ema for ema in module.emas if not ema.host], optimiser)
    with tracker:
        activations = 0.0
        for _ in range(2):  # gradients of the first batch exist during the second
            before = tracker.megabytes("current")
            with gpu_autocast(train["precision"]):
                loss = module.training_step(None, 0)
            activations = tracker.megabytes("current") - before
            backward(loss)
            del loss
        optimiser.step()
        optimiser.zero_grad()
        peak = tracker.megabytes("peak")
    sizes = state_sizes(module)
    transient = peak - sum(sizes.values()) - activations
    return Account(**sizes, activations=activations, transient=transient)


def _optimise(module: MeanFlowModule, optimiser: torch.optim.Optimizer, precision: str) -> None:
    with gpu_autocast(precision):
        loss = module.training_step(None, 0)
    backward(loss)
    optimiser.step()
    optimiser.zero_grad()
    for ema in module.emas:
        ema.update(module.u, module.batch, module.batch)


def inference_account(build: Callable[[], tuple[list[nn.Module], Callable[[], Tensor]]]) -> Account:
    """Account of a call without gradient.

    Arguments:
        build: Function that returns the networks on the device and the call, made inside `fake_tensors`.
    """
    with fake_tensors(), torch.no_grad():
        nets, call = build()
        tracker = StorageTracker()
        tracker.track_external(*nets)
        with tracker:
            call()
        peak = tracker.megabytes("peak")
        parameters = sum(tensor.untyped_storage().nbytes() for tensor in contents(*nets)) / 1e6
        return Account(parameters=parameters, transient=peak - parameters)


def training_operations(*, train: dict, flow: dict, **settings: Any) -> tuple[float, float]:
    """Operations of one batch: of flow matching, and what pairs with r < t add, both with backward pass."""
    batch, counts = train["batch"], []
    for moving in (0, moving_pairs(flow, batch)):
        with fake_tensors(batch, moving):
            module = new_module(flow=flow, train=train, moving=moving, **settings)
            with FlopCounterMode(display=False) as counter:
                module.training_step(None, 0).backward()
        counts.append(float(counter.get_total_flops()))
    return counts[0], counts[1] - counts[0]


def operations(build: Callable[[], tuple[list[nn.Module], Callable[[], Tensor]]]) -> float:
    """Operations of a call without gradient; arguments as of `inference_account`."""
    with fake_tensors(), torch.no_grad():
        _, call = build()
        with FlopCounterMode(display=False) as counter:
            call()
    return float(counter.get_total_flops())
