"""Command lines and parameters of jobs, from the rules' named files and the sections of the config."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from neuromf.config.study import Config
from neuromf.config.types import Section
from neuromf.workflow.digests import resolve

UNLISTED = {
    "after",
    "pdf",
    "png",
    "facts",
    "tex",
    "csv",
}  # files that a rule waits for or makes, but does not name to its script


def command_line(*files: Mapping[str, Any]) -> str:
    """`--name file ...` for every named input and output of a rule, quoted for the shell.

    Arguments:
        files: Named inputs and outputs, each a path or a list of paths; names in UNLISTED are left out.
    """
    words = []
    for name, paths in (pair for group in files for pair in group.items()):
        paths = [paths] if isinstance(paths, str) else list(paths)
        if name not in UNLISTED and paths:
            words += [f"--{name}", *map(str, paths)]
    return shlex.join(words)


def dump(section: Section, *names: str, leave: Iterable[str] = ()) -> dict[str, Any]:
    """Values of a section as keyword arguments of a job; paths are resolved from the root of the repository.

    Arguments:
        names: Keys to include; all if none is given.
        leave: Keys to leave out.
    """
    values = section.model_dump(mode="json", include=set(names) or None, exclude=set(leave))
    return {name: _resolved(getattr(section, name), value, _is_path(section, name)) for name, value in values.items()}


def _is_path(section: BaseModel, name: str) -> bool:
    extra = type(section).model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("path"))


def _resolved(value: Any, dumped: Any, is_path: bool) -> Any:  # noqa: ANN401  # any value of a config
    if isinstance(value, Section):
        return dump(value)
    if isinstance(value, list) and value and isinstance(value[0], Section):
        return [dump(item) for item in value]
    return str(resolve(dumped)) if is_path and dumped not in (None, "packaged") else dumped


def evaluation_settings(config: Config) -> dict[str, Any]:
    """Keyword arguments that all evaluations share."""
    return {"spacing_mm": config.volumes.spacing_mm, "seed": config.seed, **dump(config.evaluation, leave=["arms"])}


def provenance(config: Config, run: str, *sections: str) -> dict[str, Any]:
    """Study, run, seed and the config sections behind a figure or table, for its metadata and side file.

    Arguments:
        sections: Dotted names, such as meanflow.flow.
    """
    values = config.model_dump(mode="json")
    about = {"study": config.study, "run": run, "seed": config.meanflow.samples.seed}
    return {
        **about,
        "spacing_mm": config.volumes.spacing_mm,
        "values": {name: _inner(values, name) for name in sections},
    }


def _inner(values: dict, name: str) -> Any:  # noqa: ANN401
    for part in name.split("."):
        values = values[part]
    return values


def as_json(**values: object) -> str:
    """One string for the values of a rule, independent of their order; Snakemake compares strings reliably."""
    return json.dumps(values, sort_keys=True)
