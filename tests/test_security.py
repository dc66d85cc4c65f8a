"""Nothing that is read can run code, reach a shell, or ask the network."""

import ast
import os
import re
from pathlib import Path

import pytest
import torch

from neuromf.training import checkpoints
from neuromf.workflow.digests import code_files

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("neuromf/**/*.py"), *ROOT.glob("workflow_scripts/*.py")])
RULES = [ROOT / "Snakefile", *sorted(ROOT.glob("rules/*.smk"))]


def test_what_a_rule_gives_to_the_shell_is_quoted_or_made_of_safe_letters():
    safe = {"{wildcards.shard}", "{wildcards.run}", "{wildcards.steps}", "{wildcards.phase}"}
    safe |= {f"{{resources.{name}}}" for name in PROFILED}
    for path in RULES:
        for shell in re.findall(r"    shell:\n(.*?)(?=\n\n|\n    \w|\Z)", path.read_text(), re.S):
            found = set(re.findall(r"(?<!{){[a-z_.]+(?:\[[^]]*\])?(?::\w+)?}", shell))
            assert {part for part in found if not part.endswith(":q}")} <= safe, path.name


# what the profile says and no study can: numbers, and the command that starts processes on several nodes
PROFILED = ("gpu", "nodes", "mem_mb", "launch")
CONSTRAINED = {"shard": r"\d+", "run": r"[a-z0-9][a-z0-9.-]*", "steps": r"\d+", "phase": r"\d"}


def test_the_safe_letters_of_wildcards_are_what_they_are():
    text = (ROOT / "rules/common.smk").read_text()
    for name, pattern in CONSTRAINED.items():
        assert f'{name}=r"{pattern}"' in text
        assert not re.fullmatch(pattern, "$(touch pwned)")


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run_code(path):
    for name, words in calls(path):
        assert name not in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load"), name
        assert name != "torch.load" or words.get("weights_only") == "True", "torch.load without weights_only=True"
        assert name not in ("np.load", "pd.read_pickle", "joblib.load") or "allow_pickle" not in words
        assert "shell" not in words or not name.startswith("subprocess")
    assert "read_pickle" not in path.read_text()


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_a_checkpoint_that_would_run_code_is_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"made_by": "this", "bomb": Bomb()}, tmp_path / "last.ckpt")
    assert checkpoints.find_checkpoint(tmp_path / "last.ckpt", "this") is None
    assert not (tmp_path / "pwned").exists() and "is not gone on from" in caplog.text


NETWORK = {"requests", "urllib3", "socket", "http", "ftplib", "aiohttp", "httpx", "huggingface_hub"}


def test_only_the_rules_that_fetch_can_ask_the_network():
    able = {path for path in SOURCES if NETWORK & imported(path)}
    assert {str(path.relative_to(ROOT)) for path in able} == {"neuromf/data/download.py"}
    scripts = {path.stem for path in ROOT.glob("workflow_scripts/*.py")} - {"__init__", "_cli"}
    asking = {name for name in scripts if able & set(code_files(f"workflow_scripts.{name}"))}
    assert asking == {"ixi", "maisi"}


def imported(path):
    """Packages that a file imports; urllib.parse takes addresses apart and asks nobody."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names} | ({"http"} if "urllib.request" in names else set())


def test_durations_are_taken_from_a_clock_that_never_goes_back():
    for path in SOURCES:
        assert not {name for name, _ in calls(path)} & {"time.time", "datetime.now", "datetime.datetime.now"}, path.name
