"""Participants tables of users: participant, file, sex, age and site are read, no other column."""

import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from neuromf.data.sources.delimited import find_column, read_lines
from neuromf.data.sources.values import (
    known_or_empty,
    loose_id,
    parse_age,
    parse_sex,
    participant_id,
    read_meaning,
    warn_unread,
)

logger = logging.getLogger(__name__)

DEFAULT_COLUMNS = {"participant": "participant_id", "file": "file", "sex": "sex", "age": "age", "site": "site"}


def read_participants(path: Path, columns: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Rows of a participants table, with those of participant, file, sex, age and site that it has.

    Arguments:
        path: Path of the table, tsv or csv.
        columns: Column names that differ from `DEFAULT_COLUMNS`, such as {"age": "age_scan"}.

    Raises:
        ValueError: If the table has no row, neither a participant nor a file column, or lacks a column of `columns`.
    """
    header, lines = read_lines(path, "participants table")
    theirs = {ours: find_column(header, name) for ours, name in {**DEFAULT_COLUMNS, **(columns or {})}.items()}
    for ours, name in (columns or {}).items():
        if theirs[ours] is None:
            raise ValueError(
                f'participants table {path} has no column "{name}", the value of columns.{ours}; '
                f"it has {', '.join(header)}"
            )
    if not lines or theirs["participant"] is theirs["file"] is None:
        raise ValueError(
            f"participants table {path} needs a row and a column participant_id or file; "
            f"got {len(lines)} rows with columns {', '.join(header)}"
        )
    columns_found = {ours: name for ours, name in theirs.items() if name}
    meaning = read_meaning(path, columns_found)
    parsers: dict[str, Callable[[str], Any]] = {
        "participant": participant_id,
        "file": known_or_empty,
        "site": known_or_empty,
        "sex": partial(parse_sex, meaning=meaning),
        "age": partial(parse_age, meaning=meaning),
    }
    cells = {ours: [line.cells[name] for line in lines] for ours, name in columns_found.items()}
    values = {ours: [parsers[ours](cell) for cell in column] for ours, column in cells.items()}
    for ours in {"age", "sex"} & values.keys():
        warn_unread(path.name, ours, cells[ours], values[ours])
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def join_participants(
    rows: Sequence[dict],
    root: Path,
    name: str | None,
    columns: Mapping[str, str] | None = None,
    *,
    missing: Callable[[dict, str], dict] | None = None,
) -> list[dict[str, Any]]:
    """Rows of scans completed by a participants table, and one more row per participant without a scan.

    The tables are joined on the file if the participants table has one, else on the participant. Of several rows with
    the same key, the first one counts. Ids that differ in capitals and leading zeros are joined if the match is unique.

    Arguments:
        rows: Rows of scans, each with its path below root as "relative", which is removed.
        root: Folder of the study.
        name: Participants table, relative to root; None joins nothing.
        columns: Column names, as in `read_participants`.
        missing: Function of a row and `name` that returns the row of a participant without a scan.
    """
    participants = read_participants(root / name, columns) if name else []
    key = "file" if participants and "file" in participants[0] else "participant"
    table: dict[str, dict] = {}
    repeated = [line for line in participants if table.setdefault(_join_key(line, key), line) is not line]
    if repeated:
        names = ", ".join(line[key] or line.get("participant", "") for line in repeated[:5])
        names += ", ..." if len(repeated) > 5 else ""
        logger.warning("%s: %d rows repeat an earlier %s and are ignored: %s", name, len(repeated), key, names)
    keys = [normalise_path(row["relative" if key == "file" else "participant"]) for row in rows]
    if key == "participant":
        table = _with_ids_of_scans(table, keys, str(name))
    joined = [row | _known(table.get(k, {})) | {"file": row["file"]} for row, k in zip(rows, keys, strict=True)]
    found = set(keys)
    lost = [(missing or missing_scan_row)(_known(line), str(name)) for k, line in table.items() if k not in found]
    return [{field: value for field, value in row.items() if field != "relative"} for row in joined + lost]


def _with_ids_of_scans(table: Mapping[str, dict], keys: Sequence[str], name: str) -> dict[str, dict]:
    """The table with the ids of scans where an id differs in capitals or leading zeros only, and only one id is so."""
    theirs, ours = set(table) - set(keys), set(keys) - set(table)
    n_theirs, n_ours = (Counter(map(loose_id, ids)) for ids in (table, {*keys}))
    by_loose = {loose_id(key): key for key in ours}
    renamed = {
        key: by_loose[loose]
        for key in theirs
        if (loose := loose_id(key)) in by_loose and n_theirs[loose] == n_ours[loose] == 1
    }
    if renamed:
        example = min(renamed)
        text = "%s: %d ids differ from those of scans in leading zeros or capitals and are joined, such as %s with %s"
        logger.warning(text, name, len(renamed), example, renamed[example])
    return {renamed.get(key, key): line | {"participant": renamed.get(key, line.get("participant", ""))}
            for key, line in table.items()}  # fmt: skip


def _known(line: dict) -> dict[str, Any]:
    """The known values of a row: unknown ones must not replace others."""
    return {name: value for name, value in line.items() if value != "" and value == value}


def _join_key(line: dict, key: str) -> str:
    """The key of a row; without a file it is the participant, marked so that it never equals a file."""
    return normalise_path(line[key]) if line[key] else f"\0{line.get('participant', '')}"


def normalise_path(path: str) -> str:
    """The same characters for the same path, whichever system wrote it."""
    return unicodedata.normalize("NFC", str(PurePosixPath(path)))


def blank_row(scan: str, participant: str, problem: str = "", **facts: Any) -> dict[str, Any]:
    """The row of a scan with unknown demographics."""
    row = {"scan": scan, "participant": participant, "file": "", "mask": "", "sex": "", "age": math.nan, "site": ""}
    return row | {"problem": problem} | facts


def missing_scan_row(line: dict, name: str) -> dict[str, Any]:
    """The row of a participant in the table `name` whose scan was not found."""
    who = line.get("participant", "")
    problem = f"missing file: {name} lists {who or 'a row without a name'}, but there is no such scan"
    return blank_row(who or "unnamed", who or "unnamed") | line | {"file": "", "problem": problem}
