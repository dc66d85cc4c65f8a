"""Tests of criteria are selected by name and by marker alike."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


COLLECT = """
import sys, pytest
for options in (sys.argv[k : k + 2] for k in range(1, len(sys.argv), 2)):
    pytest.main(["--collect-only", "-q", "tests/meanflow/test_flow.py", *options])
    print("end of a collection")
"""


def collected(*options):
    """Tests selected by each pair of options, all from one process."""
    command = [sys.executable, "-c", COLLECT, *(word for pair in options for word in pair)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    parts = output.split("end of a collection")[: len(options)]
    return [{line for line in part.splitlines() if "::" in line} for part in parts]


def test_a_phase_is_selected_by_name_and_by_marker():
    pairs = ("-k", "P3"), ("-m", "phase3 and not slow"), ("-m", "phase3 and critical"), ("-k", "P2")
    by_name, by_marker, critical, other = collected(*pairs)
    assert by_name == by_marker == critical != set() and not by_name & other


@pytest.mark.parametrize("name", ["base_config", "device", "results_root"])
def test_shared_fixtures_exist(name):
    assert re.search(rf"^def {name}\(", (ROOT / "tests/conftest.py").read_text(), re.M)
