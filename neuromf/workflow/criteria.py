"""The criteria of every phase, from `neuromf/config/criteria.yaml` with the bounds of the study."""

from pathlib import Path
from typing import Literal, NamedTuple

import yaml

FILE = Path(__file__).parents[1] / "config" / "criteria.yaml"


class Criterion(NamedTuple):
    """One criterion: the measured quantity `what` must be above or below its bound."""

    what: str
    side: Literal["above", "below"]
    bound: float
    kind: Literal["critical", "informational"] = "critical"
    next: str = ""


def read_criteria(bounds: dict[str, float], informational: list[str]) -> dict[str, Criterion]:
    """Criteria by id.

    Arguments:
        bounds: Bounds by id, in place of those of the file.
        informational: Ids of critical criteria that the study only reports.
    Raises:
        SystemExit: If an id is unknown.
    """
    criteria = {name: Criterion(**row) for name, row in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()}
    if unknown := sorted({*bounds, *informational} - criteria.keys()):
        raise SystemExit(f"gates.bounds or gates.informational name {unknown}; the ids are those of {FILE.name}")
    for name, bound in bounds.items():
        criteria[name] = criteria[name]._replace(bound=bound)
    for name in informational:
        criteria[name] = criteria[name]._replace(kind="informational")
    return criteria
