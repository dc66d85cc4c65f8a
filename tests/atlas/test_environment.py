"""The environment of the atlas: extras and lock file in step, pre-commit and CI."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def test_A86_the_lock_file_pins_what_the_extras_ask_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "envs/requirements.lock").read_text(), re.M))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for wanted in map(Requirement, extras["atlas"] + extras["atlas-pages"]):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted
    assert pins["nilearn"] == "0.13.1"  # NiMARE needs less than 0.14


def test_A86_pre_commit_and_ci_run_the_checks():
    assert "ruff" in (ROOT / ".pre-commit-config.yaml").read_text()
    script = (ROOT / ".ci/run").read_text()
    assert all(re.search(rf"^{line}\b", script, re.M) for line in ("make test", "make lint", "make tiny"))
