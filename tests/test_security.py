"""Input files cannot run code, reach a shell or contact the network."""

import ast
import os
import re
from pathlib import Path

import pytest
import torch

from neuromf.training import checkpoints
from neuromf.workflow.digests import code_files
from neuromf.workflow.params import command_line

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("neuromf/**/*.py"), *ROOT.glob("workflow_scripts/*.py")])
RULES = [ROOT / "Snakefile", *sorted(ROOT.glob("rules/*.smk"))]


def test_rules_quote_what_they_pass_to_the_shell():
    safe = {f"{{wildcards.{name}}}" for name in CONSTRAINED} | {f"{{resources.{name}}}" for name in PROFILED}
    safe |= {"{params.script}", "{params.files}"}  # a name from the rules, and what params.command_line quotes
    for path in RULES:
        for shell in re.findall(r"    shell:\n(.*?)(?=\n\n|\n    \w|\Z)", path.read_text(), re.S):
            found = set(re.findall(r"(?<!{){[a-z_.]+(?:\[[^]]*\])?(?::\w+)?}", shell))
            assert {part for part in found if not part.endswith(":q}")} <= safe, path.name


# Values of the profile, which no study can set: numbers, and the command that starts processes on several nodes.
PROFILED = ("gpu", "nodes", "mem_mb", "launch")
CONSTRAINED = {"shard": r"\d+", "run": r"[a-z0-9][a-z0-9.-]*", "nfe": r"\d+", "phase": r"\d"}


def test_wildcards_cannot_hold_shell_commands():
    text = (ROOT / "rules/common.smk").read_text()
    for name, pattern in CONSTRAINED.items():
        assert f'{name}=r"{pattern}"' in text
        assert not re.fullmatch(pattern, "$(touch pwned)")


def test_the_command_line_of_a_job_is_quoted():
    line = command_line({"qc": "a b;c.tsv", "after": "x"}, {"out": ["$(touch pwned)"]})
    assert line == "--qc 'a b;c.tsv' --out '$(touch pwned)'"


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reader_runs_code(path):
    for name, words in calls(path):
        assert name not in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load"), name
        assert name not in ("torch.jit.load", "jit.load", "torch.hub.load"), f"{name} runs the code of a file"
        assert name != "torch.load" or words.get("weights_only") == "True", "torch.load without weights_only=True"
        assert name not in ("np.load", "pd.read_pickle", "joblib.load") or "allow_pickle" not in words
        assert "shell" not in words or not name.startswith("subprocess")
    assert "read_pickle" not in path.read_text()


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_a_checkpoint_that_would_run_code_is_not_resumed(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"provenance": "this", "bomb": Bomb()}, tmp_path / "last.ckpt")
    assert checkpoints.find_checkpoint(tmp_path / "last.ckpt", "this") is None
    assert not (tmp_path / "pwned").exists() and "is not resumed" in caplog.text


NETWORK = {"requests", "urllib3", "socket", "http", "ftplib", "aiohttp", "httpx", "huggingface_hub"}


def test_only_download_rules_contact_the_network():
    able = {path for path in SOURCES if NETWORK & imported(path)}
    assert {str(path.relative_to(ROOT)) for path in able} == {"neuromf/data/download.py"}
    scripts = {path.stem for path in ROOT.glob("workflow_scripts/*.py")} - {"__init__", "_cli"}
    asking = {name for name in scripts if able & set(code_files(f"workflow_scripts.{name}"))}
    assert asking == {"ixi", "maisi", "atlas_neurosynth", "atlas_statmaps"}


def imported(path):
    """Packages that a file imports; urllib.parse takes addresses apart and asks nobody."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names} | ({"http"} if "urllib.request" in names else set())


def test_durations_are_measured_with_a_monotonic_clock():
    for path in SOURCES:
        assert not {name for name, _ in calls(path)} & {"time.time", "datetime.now", "datetime.datetime.now"}, path.name
