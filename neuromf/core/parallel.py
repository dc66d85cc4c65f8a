"""A function applied to many volumes in parallel: one thread and one core per volume.

The threads of torch and BLAS speed up work on one small volume badly: they wait for each other, and two cores take as
long as one. Results do not depend on the number of cores.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

CORES = torch.get_num_threads()  # OMP_NUM_THREADS where it is set, as rules do
Result = TypeVar("Result")


def map_in_threads(function: Callable[..., Result], *items: Iterable) -> list[Result]:
    """[function(a, b, ...) for each a, b, ... of `items`], CORES at a time, on the CPU and without gradients.

    An exception in `function` is raised here.
    """
    before = torch.get_num_threads()
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(CORES, initializer=_use_one_core) as pool:
            return list(pool.map(function, *items))
    finally:
        torch.set_num_threads(before)  # new threads take the number set last, in any thread


def _use_one_core() -> None:
    threadpool_limits(1)  # OpenMP limits hold per thread and per library
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
