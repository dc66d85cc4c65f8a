"""Tests of criteria are selected by name and by marker alike."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def collected(*options):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/meanflow/test_flow.py", *options]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    return {line for line in lines if "::" in line}


def test_a_phase_is_selected_by_name_and_by_marker():
    assert collected("-k", "P3") == collected("-m", "phase3 and not slow") != set()
    assert collected("-m", "phase3 and critical") == collected("-k", "P3")


@pytest.mark.parametrize("name", ["base_config", "device", "results_root"])
def test_shared_fixtures_exist(name):
    assert re.search(rf"^def {name}\(", (ROOT / "tests/conftest.py").read_text(), re.M)
