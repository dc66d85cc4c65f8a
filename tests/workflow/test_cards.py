"""A study that does not fit on the GPU of the machine is refused before its first job."""

import json
import os

import pytest

from neuromf.workflow import cards


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Function that pretends GPUs with this output of nvidia-smi."""

    def pretend(output):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return pretend


def test_the_smallest_gpu_counts(gpu, monkeypatch):
    gpu("81559\\n8188\\n")
    assert cards.smallest_card_mb() == pytest.approx(8188 * 1.048576)
    monkeypatch.setenv("PATH", "")
    assert cards.smallest_card_mb() == 0


def test_a_broken_driver_is_no_gpu(gpu):
    gpu("Failed to initialize NVML\\n")
    assert cards.smallest_card_mb() == 0 and cards.reason_for_refusal("{}") == ""


def test_the_reason_is_that_of_the_memory_account(gpu, monkeypatch):
    gpu("8188\\n")
    monkeypatch.setattr(
        cards, "CHECK", "import sys, json; c = json.loads(sys.argv[1]); sys.exit(f'{c[\"card_mb\"]:.0f}')"
    )
    assert cards.reason_for_refusal(json.dumps({"study": "a"})) == "8586"
    monkeypatch.setattr(cards, "CHECK", "pass")
    assert cards.reason_for_refusal(json.dumps({"study": "a"})) == ""
