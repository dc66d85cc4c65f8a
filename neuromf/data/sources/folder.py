"""Scans from any folder: a glob finds the files, a regular expression reads their names."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from neuromf.data.sources.demographics import absent_row, blank_row, join_people, person_id, read_people

GROUPS = {"scan", "person", "site"}


def find_scans(root: str | Path, pattern: str) -> list[Path]:
    """Files under root that match a glob, sorted; links to nothing are kept, so that they can be reported."""
    return sorted(path for path in Path(root).glob(pattern) if not path.is_dir())


def read_folder(
    root: str | Path,
    pattern: str,
    scan_regex: str,
    *,
    participants: str | None = None,
    columns: Mapping[str, str] | None = None,
    masks: str | None = None,
) -> list[dict[str, Any]]:
    r"""The rows of any folder of NIfTI.

    Arguments:
        root: The folder; file and mask of a row start with it.
        pattern: A glob relative to root, such as "T1/*.nii.gz".
        scan_regex: Matched from the start of each file name, with named groups among scan, person and site,
            such as "(?P<scan>(?P<person>IXI\d+)-(?P<site>\w+)-\d+)". A scan is named after its file and a
            person after the scan where the group is absent.
        participants: A tsv or csv relative to root, with columns participant_id and/or file, and any of sex,
            age and site. It is joined on file (relative to root) where it has one, on the person elsewhere.
            Each of its rows without a scan becomes a row with a problem.
        columns: Names of its columns where they are others, such as {"person": "subject", "age": "age_scan"}.
        masks: Where the mask of a scan lies, relative to root, such as "masks/{scan}-mask.nii.gz".
    Raises:
        ValueError: If no file matches, or an argument cannot be used as it is.
    """
    files = find_scans(root, pattern)
    if not files:
        raise ValueError(
            f'no scan in {root}: nothing matches the pattern "{pattern}"; '
            "correct root or pattern (** matches folders of any depth)"
        )
    root, regex = Path(root), _compiled(scan_regex)
    rows = [_describe(root, file.relative_to(root).as_posix(), regex, masks) for file in files]
    if participants:
        people = read_people(root / participants, columns)
        rows = join_people(rows, people, participants, lambda line: _absent(line, root, participants, regex, pattern))
    return [{name: value for name, value in row.items() if name != "relative"} for row in rows]


def _compiled(scan_regex: str) -> re.Pattern:
    try:
        regex = re.compile(scan_regex)
    except re.error as error:
        raise ValueError(f"scan_regex {scan_regex!r} is not a regular expression: {error}") from error
    if odd := sorted(regex.groupindex.keys() - GROUPS):
        raise ValueError(f"scan_regex has named groups {', '.join(odd)}; they must be among scan, person, site")
    return regex


def _describe(root: Path, relative: str, regex: re.Pattern, masks: str | None) -> dict[str, Any]:
    """What the name of one file says."""
    name = PurePosixPath(relative).name
    match = regex.match(name)
    groups = {key: value for key, value in (match.groupdict() if match else {}).items() if value}
    scan = groups.get("scan", stem(name))
    person = groups.get("person", scan)
    row = blank_row(scan, person_id(person), site=groups.get("site", ""), relative=relative, file=str(root / relative))
    if problem := file_problem(root / relative):
        return printable(row) | {"problem": problem}
    if match is None:
        return row | {"problem": f"name does not match: {name} does not match scan_regex {regex.pattern!r}"}
    return row | find_mask(root, masks, scan=scan, person=person, site=row["site"])


def _absent(line: dict, root: Path, participants: str, regex: re.Pattern, pattern: str) -> dict[str, Any]:
    """The row of someone in the participants table of whom no scan was found."""
    if not line.get("file"):
        return absent_row(line, participants)
    row = _describe(root, line["file"], regex, None)
    if Path(row["file"]).exists():
        problem = f'not in the pattern: {participants} lists {line["file"]}, which "{pattern}" does not match'
    else:
        problem = f"missing file: {row['file']} does not exist, but {participants} lists it"
    return row | line | {"file": row["file"], "problem": problem}


def stem(name: str) -> str:
    """A name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", name)


def file_problem(path: Path) -> str:
    """What keeps a file that was found from being read at all."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"unreadable name: {_printed(str(path))} is not UTF-8; rename the file"
    return "" if path.exists() else f"missing file: {path} is a link to nothing"


def printable(row: dict) -> dict[str, Any]:
    """The row with every name in characters that can be written."""
    return {name: _printed(value) if isinstance(value, str) else value for name, value in row.items()}


def _printed(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_mask(root: Path, masks: str | None, **fields: str) -> dict[str, str]:
    """The mask of a scan, below root, and a problem where it is not there; nothing where there is no template."""
    if not masks:
        return {}
    try:
        path = root / masks.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        *some, last = [f"{{{name}}}" for name in fields]
        raise ValueError(f'masks "{masks}" may name {", ".join(some)} and {last} only: {error!r}') from error
    return {"mask": str(path), "problem": "" if path.exists() else f"missing mask: {path} does not exist"}
