"""Parallel map: results in order, one core per item, torch settings restored."""

import threading

import pytest
import torch

from neuromf.core import parallel


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(parallel, "CORES", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_their_items():
    assert parallel.map_in_threads(lambda a, b: 10 * a + b, range(50), range(50)) == [11 * k for k in range(50)]
    assert parallel.map_in_threads(str, []) == []


def test_items_run_in_parallel_with_one_core_each():
    together = threading.Barrier(2, timeout=20)  # needs two threads at once

    def identify(_):
        together.wait()
        return threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()

    found = parallel.map_in_threads(identify, range(2))
    assert len({thread for thread, *_ in found}) == 2
    assert [settings for _, *settings in found] == 2 * [[1, False]]


def test_torch_settings_are_restored_after_an_error():
    def fails(_):
        raise ValueError("volume 3 is no brain")

    with pytest.raises(ValueError, match="volume 3"):
        parallel.map_in_threads(fails, range(3))
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()
    assert [torch.get_num_threads(), *in_a_new_thread(torch.get_num_threads)] == [2, 2]


def in_a_new_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found
