"""What the Snakefile needs of the library: code digests, JSON parameters, shards. Standard library only.

A rule's `params` hold the values it uses as one JSON string, and a digest of the code it runs: the script, and every
module of this repository that it imports, directly or not. Comments, docstrings, layout and file times
do not count; a changed formula reruns exactly the rules that use it.
"""

import ast
import functools
import hashlib
import json
import math
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("neuromf", "workflow_scripts")


def as_json(**values: object) -> str:
    """One string for a rule's values, the same whatever their order; Snakemake compares strings reliably."""
    return json.dumps(values, sort_keys=True)


def code_digest(*modules: str) -> str:
    """Digest of what these modules run: their syntax trees and those of all they import from this repository."""
    digest = hashlib.sha256()
    for path in code_files(*modules):
        digest.update(str(path.relative_to(ROOT)).encode() + _tree(path).encode())
    return digest.hexdigest()[:16]


def code_files(*modules: str) -> list[Path]:
    """Files of these modules and of all they import from this repository, sorted."""
    found: set[Path] = set()
    waiting = [_file(module) for module in modules]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imports(path))
    return sorted(found)


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise ValueError(f"no module {module} under {ROOT}; wanted {path}.py or {path}/__init__.py")


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Files of this repository that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno} imports relatively; write the module's full name")
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return tuple(sorted(_existing(name) for name in names if name.split(".")[0] in PACKAGES and _existing(name)))


def _existing(name: str) -> Path | None:
    try:
        return _file(name)
    except ValueError:
        return None  # a name inside a module, not a module


@functools.cache
def _tree(path: Path) -> str:
    """The syntax tree of a file as text, without docstrings and positions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def resolve(path: str) -> Path:
    """A path of the config: ~ and $VARIABLES expanded, relative ones taken from the repository's root."""
    return ROOT / os.path.expanduser(os.path.expandvars(path))


# --- shards ------------------------------------------------------------------------------------------


def scan_names(cohort: object) -> list[str]:
    """Names of the scans a cohort section speaks of: people by number, or files below its folder, sorted."""
    if cohort.source == "embedded":
        return [str(number) for number in range(cohort.embedded.n_people)]
    root = resolve(cohort.folder.root)
    if not root.is_dir():
        raise SystemExit(f"cohort.folder.root is {root}, which is no folder; set it to where your scans are")
    return sorted(str(path.relative_to(root)) for path in root.glob(cohort.folder.pattern) if not path.is_dir())


def n_shards(cohort: object) -> int:
    """How many jobs handle the scans of a cohort, each about cohort.scans_per_shard of them."""
    return max(1, math.ceil(len(scan_names(cohort)) / cohort.scans_per_shard))


def listing_digest(cohort: object) -> str:
    """Digest of the names of the scans, so that a new file in the folder makes the cohort stale."""
    return hashlib.sha256("\n".join(scan_names(cohort)).encode()).hexdigest()[:16]
