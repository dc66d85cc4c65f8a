"""Digests of the code and templates that a rule uses; a changed digest makes the rule's outputs stale.

A code digest covers the script and every module of this repository that it imports, directly or not. It hashes syntax
trees: comments, docstrings, layout and file times do not count. A changed formula reruns the rules that use it only.
"""

import ast
import functools
import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("neuromf", "workflow_scripts")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(*modules: str) -> str:
    """Digest of the syntax trees of these modules and of all that they import from this repository."""
    digest = hashlib.sha256()
    for path in code_files(*modules):
        digest.update(str(path.relative_to(ROOT)).encode() + _parsed(path)[0].encode())
    return digest.hexdigest()[:16]


def files_digest(*folders: str) -> str:
    """Digest of names and contents of all files in these folders of the repository, such as templates."""
    digest = hashlib.sha256()
    for folder in folders:
        if not ROOT.joinpath(folder).is_dir():
            raise ValueError(f"no folder {folder} under {ROOT}")
        for path in sorted(path for path in ROOT.joinpath(folder).rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_files(*modules: str) -> list[Path]:
    """Files of these modules and of all they import from this repository, sorted."""
    found: set[Path] = set()
    waiting = [file for module in modules for file in (_file(module), *_packages(module))]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_parsed(path)[1])
    return sorted(found)


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise ValueError(f"no module {module} under {ROOT}; expected {path}.py or {path}/__init__.py")


@functools.cache
def _parsed(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Syntax tree of a file as text, without docstrings and positions, and the files of this repository it imports."""
    tree, names = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno} imports relatively; write the module's full name")
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    ours = [name for name in names if name.split(".")[0] in PACKAGES]
    files = {file for name in ours if (file := _existing(name))}
    return ast.dump(tree), tuple(sorted(files.union(*map(_packages, ours))))


def _packages(module: str) -> list[Path]:
    """The `__init__.py` files that importing a module runs: those of the packages around it."""
    parts = module.split(".")
    inits = [ROOT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [path for path in inits if path.is_file()]


def _existing(name: str) -> Path | None:
    try:
        return _file(name)
    except ValueError:
        return None  # a name inside a module, not a module


def resolve(path: str) -> Path:
    """A path of the config: ~ and $VARIABLES expanded, relative to the root of the repository."""
    return ROOT / os.path.expanduser(os.path.expandvars(path))
