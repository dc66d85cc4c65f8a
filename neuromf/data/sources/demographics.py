"""What a table of people says of them: person, file, sex, age and site, and nothing else."""

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
USUAL = {"person": "participant_id", "file": "file", "sex": "sex", "age": "age", "site": "site"}


def person_id(text: str) -> str:
    """A person's name, the same however its accents are spelt and whether or not it carries the "sub-" of BIDS."""
    return unicodedata.normalize("NFC", known(text)).removeprefix("sub-")


def known(text: str) -> str:
    return "" if text.lower() in UNKNOWN else text


def sex_of(text: str) -> str:
    return SEXES.get(text.lower(), "")


def age_of(text: str) -> float:
    """Age in years, or NaN where there is none that a person can have."""
    try:
        age = float(text)
    except ValueError:
        return math.nan
    return age if 0 < age < 120 else math.nan


READ = {"person": person_id, "sex": sex_of, "age": age_of, "file": known, "site": known}


def read_people(path: Path, columns: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What is known of the people of a table, line by line: those of person, file, sex, age and site it knows.

    Arguments:
        columns: Names of the table's columns where they are not the usual ones, such as {"age": "age_scan"}.
    Raises:
        ValueError: If it has no row, neither a column of people nor one of files, or lacks a column named here.
    """
    header, lines = read_lines(path, "participants table")
    theirs = {ours: find_column(header, name) for ours, name in {**USUAL, **(columns or {})}.items()}
    for ours, name in (columns or {}).items():
        if theirs[ours] is None:
            raise ValueError(
                f'participants table {path} has no column "{name}", which columns.{ours} names; '
                f"it has {', '.join(header)}"
            )
    if not lines or theirs["person"] is theirs["file"] is None:
        raise ValueError(
            f"participants table {path} needs a row and a column participant_id or file; "
            f"got {len(lines)} rows with columns {', '.join(header)}"
        )
    return [{ours: READ[ours](cells[name]) for ours, name in theirs.items() if name} for _, cells in lines]


def join_people(
    rows: Sequence[dict], people: Sequence[dict], name: str, absent: Callable[[dict], dict]
) -> list[dict[str, Any]]:
    """Rows with what is known of their people, and one more row per line of the table without a scan.

    Lines are joined on the file where the table has one, on the person elsewhere; of several, the first counts.

    Arguments:
        rows: Rows of scans, each with its path below the root as "relative".
        people: Lines from `read_people`.
        name: Name of the table, for messages.
        absent: The row of a line without a scan.
    """
    on = "file" if "file" in people[0] else "person"
    table: dict[str, dict] = {}
    repeated = [line for line in people if table.setdefault(_key(line, on), line) is not line]
    if repeated:
        names = ", ".join(line[on] or line.get("person", "") for line in repeated[:5])
        names += ", ..." if len(repeated) > 5 else ""
        logger.warning("%s: %d rows repeat an earlier %s, left out: %s", name, len(repeated), on, names)
    column = "relative" if on == "file" else "person"
    joined = [row | _told(table.get(normal(row[column]), {})) | {"file": row["file"]} for row in rows]
    seen = {normal(row[column]) for row in rows}
    return joined + [absent(_told(line)) for key, line in table.items() if key not in seen]


def _told(line: dict) -> dict[str, Any]:
    """What a line knows; what it does not know overwrites nothing."""
    return {name: value for name, value in line.items() if value != "" and value == value}


def _key(line: dict, on: str) -> str:
    """What a line is joined on; a line without a file stands for itself."""
    return normal(line[on]) if line[on] else f"\0{line.get('person', '')}"


def normal(path: str) -> str:
    """The same characters for the same path, whichever system wrote it."""
    return unicodedata.normalize("NFC", str(PurePosixPath(path)))


def blank_row(scan: str, person: str, problem: str = "", **facts: Any) -> dict[str, Any]:
    """The row of a scan of which no more is known."""
    row = {"scan": scan, "person": person, "file": "", "mask": "", "sex": "", "age": math.nan, "site": ""}
    return row | {"problem": problem} | facts


def absent_row(line: dict, name: str) -> dict[str, Any]:
    """The row of someone in a participants table of whom no scan was found."""
    who = line.get("person", "")
    problem = f"missing file: {name} lists {who or 'a row without a name'}, but there is no such scan"
    return blank_row(who or "unnamed", who or "unnamed") | line | {"file": "", "problem": problem}
