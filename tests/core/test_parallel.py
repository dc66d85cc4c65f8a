"""The same of each of many volumes: in order, alone in its thread, and torch as it was."""

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


def test_results_keep_the_order_of_what_they_are_made_of():
    assert parallel.map_in_threads(lambda a, b: 10 * a + b, range(50), range(50)) == [11 * k for k in range(50)]
    assert parallel.map_in_threads(str, []) == []


def test_as_many_at_once_as_there_are_cores_and_each_has_one():
    together = threading.Barrier(2, timeout=20)  # passed by two at once or not at all

    def seen(_):
        together.wait()
        return threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()

    found = parallel.map_in_threads(seen, range(2))
    assert len({thread for thread, *_ in found}) == 2
    assert [rest for _, *rest in found] == 2 * [[1, False]]


def test_torch_is_left_as_it_was_also_by_what_fails():
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
