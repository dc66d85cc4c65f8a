"""dvc.yaml from the rule graph, for those who use DVC: `dvc repro` then runs Snakemake for each stage."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

WILDCARD = re.compile(r"\{(\w+)(?:,[^}]*)?\}")  # {name} or {name,constraint}


def stages(rules: Iterable[Any], values: dict[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Stages of DVC for rules of Snakemake: command, dependencies and outputs.

    Inputs that are functions or hold a wildcard without values are left out: Snakemake itself knows them.

    Arguments:
        rules: Rules with `name`, `input` and `output`.
        values: Values of the wildcards; a rule with a wildcard that is not here has no stage.
    """
    found: dict[str, dict[str, Any]] = {}
    for rule in rules:
        for suffix, filled in _instances([str(path) for path in rule.output], values):
            inputs = [_fill(path, filled) for path in _static(rule.input, filled)]
            outputs = [_fill(str(path), filled) for path in rule.output]
            command = f"snakemake --cores all {outputs[0]}"
            found[f"{rule.name}{suffix}"] = {"cmd": command, "deps": sorted(inputs), "outs": sorted(outputs)}
    return found


def _instances(outputs: Sequence[str], values: dict[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
    """Suffix of the stage and values of the wildcards, for each value of the wildcard of these outputs."""
    if not outputs:
        return []
    if not (names := {name for path in outputs for name in _wildcards(path)}):
        return [("", {})]
    if len(names) > 1 or (name := next(iter(names))) not in values:
        return []
    return [(f"-{value}", {name: str(value)}) for value in values[name]]


def _wildcards(path: str) -> list[str]:
    return WILDCARD.findall(path)


def _fill(path: str, filled: dict[str, str]) -> str:
    return WILDCARD.sub(lambda found: filled[found[1]], path)


def _static(paths: Iterable[Any], filled: dict[str, str]) -> list[str]:
    return [str(path) for path in paths if isinstance(path, str) and set(_wildcards(path)) <= filled.keys()]


def as_yaml(found: dict[str, dict[str, Any]]) -> str:
    """Text of dvc.yaml with these stages."""
    return yaml.safe_dump({"stages": found}, sort_keys=True)
