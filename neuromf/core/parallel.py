"""The same of each of many volumes, a thread and a core for each.

The threads of torch and BLAS share the work on one small volume badly: they wait for each other, and two cores take as
long as one. What comes of a volume does not depend on how many cores there are, either.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

CORES = torch.get_num_threads()  # those of OMP_NUM_THREADS where it is set, as rules do
Result = TypeVar("Result")


def map_in_threads(function: Callable[..., Result], *items: Iterable) -> list[Result]:
    """function(a, b, ...) of each a, b, ... of items, in their order, as many at once as there are CORES.

    On a CPU and without gradients. What the function raises is raised here.
    """
    before = torch.get_num_threads()
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(CORES, initializer=_alone) as pool:
            return list(pool.map(function, *items))
    finally:
        torch.set_num_threads(before)  # threads that torch starts later take the number of the last who said one


def _alone() -> None:
    threadpool_limits(1)  # OpenMP counts by thread and by library
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
