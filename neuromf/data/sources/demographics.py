"""Participants tables of users: participant, file, sex, age and site are read, no other column."""

import logging
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from neuromf.data.sources.delimited import find_column, read_lines

logger = logging.getLogger(__name__)

SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown"}
DEFAULT_COLUMNS = {"participant": "participant_id", "file": "file", "sex": "sex", "age": "age", "site": "site"}


def participant_id(text: str) -> str:
    """Participant id in one Unicode form, without the "sub-" of BIDS."""
    return unicodedata.normalize("NFC", known_or_empty(text)).removeprefix("sub-")


def known_or_empty(text: str) -> str:
    """The text, or "" if it stands for an unknown value."""
    return "" if text.lower() in UNKNOWN else text


def parse_sex(text: str) -> str:
    """M, F, or "" if unknown."""
    return SEXES.get(text.lower(), "")


def parse_age(text: str) -> float:
    """Age in years; NaN if it is no number between 0 and 120."""
    try:
        age = float(text)
    except ValueError:
        return math.nan
    return age if 0 < age < 120 else math.nan


PARSERS: dict[str, Callable[[str], Any]] = {
    "participant": participant_id, "sex": parse_sex, "age": parse_age, "file": known_or_empty, "site": known_or_empty
}  # fmt: skip


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
    return [{ours: PARSERS[ours](cells[name]) for ours, name in theirs.items() if name} for _, cells in lines]


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
    the same key, the first one counts.

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
    joined = [row | _known(table.get(k, {})) | {"file": row["file"]} for row, k in zip(rows, keys, strict=True)]
    found = set(keys)
    lost = [(missing or missing_scan_row)(_known(line), str(name)) for k, line in table.items() if k not in found]
    return [{field: value for field, value in row.items() if field != "relative"} for row in joined + lost]


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
