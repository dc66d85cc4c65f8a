"""Scales never mix: what outputs state about their data, and which scales a stage, a report or a release accepts."""

from collections.abc import Iterable, Mapping
from typing import Any

MOCK, SUBSET, FULL = "mock", "subset_1k", "full"
STATEMENTS = {
    MOCK: "Mock data: simulated foci, a test of the chain, no result",
    SUBSET: "Development data: 1,000 studies of Neurosynth, no result",
    FULL: "",
}
LAST_STAGE = 4  # analyses and release, where the subset is retired
LICENCE_KEYS = ("licence", "attribution")


def statement(scale: str) -> str:
    """What every figure, table and page of a scale states; "" for the full data."""
    if scale not in STATEMENTS:
        raise ValueError(f"scale must be one of {', '.join(STATEMENTS)}; got {scale!r}")
    return STATEMENTS[scale]


def kind(scale: str) -> str:
    """Kind of a checkpoint trained on a scale: production for the full data, else development."""
    return "production" if scale == FULL else "development"


def common_scale(scales: Mapping[str, str]) -> str:
    """The one scale of several artefacts.

    Arguments:
        scales: Scale by name of the artefact.

    Raises:
        ValueError: If they differ.
    """
    if len(set(scales.values())) != 1:
        raise ValueError(
            "scales must not be mixed: " + ", ".join(f"{name} is {scale}" for name, scale in scales.items())
        )
    return next(iter(scales.values()))


def require_stage(scale: str, stage: int, artefact: str) -> None:
    """Raise ValueError if a stage does not accept artefacts of a scale: stage 4 refuses the subset.

    Mock artefacts pass, with their statement, so that the chain can be tested without data.
    """
    statement(scale)
    if stage >= LAST_STAGE and scale == SUBSET:
        raise ValueError(
            f"stage {stage} accepts no {SUBSET} artefact; {artefact} is one: make it with atlas.scale: full"
        )


def require_release(scales: Mapping[str, str]) -> None:
    """Raise ValueError unless every artefact of a release is of the full data."""
    if refused := [f"{name} ({scale})" for name, scale in scales.items() if scale != FULL]:
        raise ValueError(f"a release holds full data alone; refused are {', '.join(refused)}")


def require_reportable(table: Iterable[Mapping[str, Any]], name: str) -> None:
    """Raise ValueError if a row of a table of results lacks scale or provenance, or is of mock data.

    Arguments:
        table: Rows, each with scale and manifest (digest of the data).
        name: Name of the table; tables named mock may hold mock rows.
    """
    for k, row in enumerate(table):
        if absent := [column for column in ("scale", "manifest") if not row.get(column)]:
            raise ValueError(f"row {k} of {name} lacks {', '.join(absent)}: a result states its data")
        if row["scale"] == MOCK and MOCK not in name:
            raise ValueError(f"row {k} of {name} is of mock data, which only tables named mock may hold")


def require_licence(values: Mapping[str, Any], name: str) -> None:
    """Raise ValueError if the description of an export of Neurosynth lacks the ODbL licence or the attribution."""
    missing = [key for key in LICENCE_KEYS if not values.get(key)]
    if values.get("source") != MOCK and (missing or "ODbL" not in values["licence"]):
        raise ValueError(f"{name} is derived from Neurosynth: licence (ODbL 1.0) and attribution must be stated")
