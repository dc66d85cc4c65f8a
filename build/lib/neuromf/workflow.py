"""What the Snakefile needs of the library: code digests, JSON parameters, scans, shards. Standard library only.

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
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from neuromf.sources.bids import read_bids
from neuromf.sources.folder import read_folder
from neuromf.sources.table import list_table

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("neuromf", "workflow_scripts")
FORCING = {"-f", "--force", "-F", "--forceall", "-R", "--forcerun"}  # options of Snakemake


def as_json(**values: object) -> str:
    """One string for a rule's values, the same whatever their order; Snakemake compares strings reliably."""
    return json.dumps(values, sort_keys=True)


def code_digest(*modules: str) -> str:
    """Digest of what these modules run: their syntax trees and those of all they import from this repository."""
    digest = hashlib.sha256()
    for path in code_files(*modules):
        digest.update(str(path.relative_to(ROOT)).encode() + _tree(path).encode())
    return digest.hexdigest()[:16]


def files_digest(*folders: str) -> str:
    """Digest of all files in these folders of the repository, names and contents: templates, styles, lock files."""
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
            module = str(node.module)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    ours = [name for name in names if name.split(".")[0] in PACKAGES]
    return tuple(sorted(file for name in ours if (file := _existing(name))))


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


# --- scans -------------------------------------------------------------------------------------------

# names of IXI's scans, as the rule ixi lays them out
IXI = {
    "pattern": "T1/IXI*-T1.nii.gz",
    "scan_regex": "(?P<scan>(?P<person>IXI[0-9]{3})-(?P<site>Guys|HH|IOP)-[0-9]+)-T1",
    "participants": "participants.tsv",
}
SOURCES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "folder": read_folder,
    "bids": read_bids,
    "table": list_table,
}


class CohortSection(Protocol):
    """What is read here of the section `cohort` of a config."""

    source: str
    embedded: Any
    ixi: Any


class Listing(NamedTuple):
    """How many scans a cohort has, as far as can be told before any job, and a digest that changes as they do."""

    n: int
    digest: str


def source_values(cohort: CohortSection) -> dict:
    """The source of a cohort section as its reader takes it, with root as a full path; IXI is read as a folder."""
    if cohort.source == "ixi":
        return {"source": "folder", "root": str(resolve(cohort.ixi.folder)), **IXI}
    section = getattr(cohort, cohort.source).model_dump(mode="json")
    return {"source": cohort.source, **section, "root": str(resolve(section["root"]))}


def list_scans(cohort: CohortSection) -> Listing:
    """The scans a cohort section speaks of, listed once.

    Those of IXI are what its archive is known to hold, since they may not be there yet; so are those of the embedded
    cohort. Files of a table are not looked for.

    Raises:
        SystemExit: If the source cannot be read as the section says, with the reason.
    """
    if cohort.source in ("embedded", "ixi"):
        n = cohort.embedded.n_people if cohort.source == "embedded" else cohort.ixi.expected
        return Listing(n, _digest([str(number) for number in range(n)]))
    values = source_values(cohort)
    source, root = values.pop("source"), values["root"]
    if not os.path.isdir(root):
        raise SystemExit(f"cohort.{source}.root is {root}, which is no folder; set it to where your scans are")
    try:
        rows = SOURCES[source](**values)
    except ValueError as error:
        raise SystemExit(f"cohort.{source}: {error}") from error
    return Listing(sum(not row["problem"] for row in rows), _digest([as_json(**row) for row in rows]))


def n_shards(n_scans: int, scans_per_shard: int) -> int:
    """How many jobs handle so many scans, each about scans_per_shard of them."""
    return max(1, math.ceil(n_scans / scans_per_shard))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def left_behind(logs: Sequence[str], arguments: Sequence[str]) -> int:
    """How many jobs a further run would make after one that judged gates; 0 after any other, and where jobs are forced.

    Snakemake (9.27) does not ask what lies behind a stale gate whether it is stale for reasons of its own, since gates
    are `ancient`: a dry run finds what it left.

    Arguments:
        logs: Of Snakemake, of the run that ended.
        arguments: Those that it was called with.
    """
    judged = any(re.search(r"rule gate:$", Path(log).read_text(encoding="utf-8"), re.M) for log in logs)
    if not judged or FORCING & set(arguments):
        return 0
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    jobs = re.search(r"^total +(\d+)$", done.stdout, re.M)
    return int(jobs[1]) if jobs else 0
