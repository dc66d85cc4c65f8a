"""Scans in any folder: a glob pattern finds the files, a regular expression parses their names."""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from neuromf.data.sources import demographics, values
from neuromf.data.sources.walk import find_scans, missing_reason

GROUPS = {"scan", "participant", "site"}
# Entity part of BIDS, and what dcm2niix appends to names.
NOT_MAGNITUDE = re.compile(r"(?:^|_)part-(phase|real|imag)(?:_|$)|_(ph|phase|imaginary)$", re.IGNORECASE)


def read_folder(
    root: str | Path,
    pattern: str,
    scan_regex: str,
    *,
    participants: str | None = None,
    columns: Mapping[str, str] | None = None,
    masks: str | None = None,
) -> list[dict[str, Any]]:
    r"""Rows of a participants table, one per NIfTI file of a folder.

    Arguments:
        root: Path of the folder; file and mask of a row start with it.
        pattern: Glob pattern relative to root, such as "T1/*.nii.gz".
        scan_regex: Regular expression, matched from the start of each file name, with named groups among scan,
            participant and site, such as "(?P<scan>(?P<participant>IXI\d+)-(?P<site>\w+)-\d+)". Without the group scan
            the file name is the id of the scan; without participant it is that of the participant, too.
        participants: Participants table (tsv or csv) relative to root, with participant_id and/or file, and any of sex,
            age and site. It is joined on file (relative to root) if it has one, else on the participant. Each of its
            rows without a scan becomes a row with a problem.
        columns: Column names of that table, such as {"participant": "subject", "age": "age_scan"}.
        masks: Path of the brain mask of a scan, relative to root, such as "masks/{scan}-mask.nii.gz".

    Raises:
        ValueError: If no file matches, or an argument is invalid.
    """
    files = find_scans(root, pattern)
    if not files:
        raise ValueError(
            f'no scan in {root}: nothing matches the pattern "{pattern}"; '
            "correct root or pattern (** matches folders of any depth)"
        )
    root, regex = Path(root), _compile(scan_regex)
    rows = [_row(root, file.relative_to(root).as_posix(), regex, masks) for file in files]
    missing = partial(_missing_row, root=root, regex=regex, pattern=pattern)
    return demographics.join_participants(rows, root, participants, columns, missing=missing)


def _compile(scan_regex: str) -> re.Pattern:
    try:
        regex = re.compile(scan_regex)
    except re.error as error:
        raise ValueError(f"scan_regex {scan_regex!r} is not a regular expression: {error}") from error
    if "person" in regex.groupindex:
        raise ValueError(f"scan_regex {scan_regex!r} names a group person; rename it: (?P<participant>...)")
    if unknown := sorted(regex.groupindex.keys() - GROUPS):
        raise ValueError(
            f"scan_regex has named groups {', '.join(unknown)}; they must be among scan, participant, site"
        )
    return regex


def _row(root: Path, relative: str, regex: re.Pattern, masks: str | None) -> dict[str, Any]:
    """The row of one file."""
    name = PurePosixPath(relative).name
    match = regex.match(name)
    groups = {key: value for key, value in (match.groupdict() if match else {}).items() if value}
    scan, site = stem(groups.get("scan", name)), groups.get("site", "")
    participant = stem(groups.get("participant", scan))
    paths = {"relative": relative, "file": str(root / relative)}
    row = demographics.blank_row(scan, values.participant_id(participant), site=site, **paths)
    if problem := file_problem(root / relative):
        return printable(row) | {"problem": problem}
    if match is None:
        return row | {"problem": f"name does not match: {name} does not match scan_regex {regex.pattern!r}"}
    return row | find_mask(root, masks, scan=scan, participant=participant, site=site)


def _missing_row(line: dict, participants: str, *, root: Path, regex: re.Pattern, pattern: str) -> dict[str, Any]:
    """The row of a participant whose scan was not found."""
    if not line.get("file"):
        return demographics.missing_scan_row(line, participants)
    row = _row(root, line["file"], regex, None)
    if Path(row["file"]).exists():
        problem = f'not in the pattern: {participants} lists {line["file"]}, which "{pattern}" does not match'
    else:
        problem = f"missing file: {row['file']} does not exist, but {participants} lists it"
    return row | line | {"file": row["file"], "problem": problem}


def stem(name: str) -> str:
    """A name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", name)


def file_problem(path: Path) -> str:
    """The problem of a file with an unreadable name, a broken link, or a part of a complex image; else ""."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"unreadable name: {_printable(str(path))} is not UTF-8; rename the file"
    if os.path.isdir(path):
        return f"no permission: the folder {path} cannot be read; change its mode"
    return missing_reason(path, "file") or part_problem(path.name)


def part_problem(name: str) -> str:
    """The problem of a file whose name says that it is no magnitude image; else ""."""
    if not (found := NOT_MAGNITUDE.search(stem(name))):
        return ""
    part = found[1] or found[2]
    return f"not magnitude: {name} is the {part} part of a complex image; leave it out"


def printable(row: dict) -> dict[str, Any]:
    """The row with undecodable bytes of file names as backslash escapes."""
    return {name: _printable(value) if isinstance(value, str) else value for name, value in row.items()}


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_mask(root: Path, masks: str | None, **fields: str) -> dict[str, str]:
    """The mask of a scan by the template `masks`, and a problem if it does not exist; empty without a template."""
    if not masks:
        return {}
    try:
        path = root / masks.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        *some, last = [f"{{{name}}}" for name in fields]
        raise ValueError(f'masks "{masks}" may name {", ".join(some)} and {last} only: {error!r}') from error
    return {"mask": str(path), "problem": missing_reason(path, "mask")}
