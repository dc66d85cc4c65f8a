"""The checks of `make lint` can fail: planted faults are found, with the project's own settings."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = """
import re


def half(n: int) -> float:
    return n / 2


def later(text: str):
    return half(1, 2), text.size, re.match("a", text).group(), half(None), half("1")
"""
DEAD = """
def called() -> int:
    return 1


def forgotten() -> int:
    return called()
"""


def check(*command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_wrong_calls_attributes_and_values_are_type_errors(tmp_path):
    (tmp_path / "faults.py").write_text(FAULTS)
    status, output = check("mypy", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "faults.py"))
    assert status == 1
    assert re.findall(r"error: .*\[(.+)\]$", output, re.M) == [
        "call-arg",
        "attr-defined",
        "union-attr",
        *["arg-type"] * 2,
    ]


def test_what_nothing_calls_is_dead(tmp_path):
    (tmp_path / "dead.py").write_text(DEAD)
    status, output = check("vulture", str(tmp_path / "dead.py"))
    assert status == 3 and re.findall(r"unused \w+ '(\w+)'", output) == ["forgotten"]


def test_names_that_are_spared_as_used_elsewhere_are_there():
    names = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["vulture"]["ignore_names"]
    code = "\n".join(
        path.read_text() for room in ("neuromf", "workflow_scripts") for path in ROOT.glob(f"{room}/**/*.py")
    )
    assert [name for name in names if not re.search(rf"\b{name.replace('*', '')}", code)] == []
