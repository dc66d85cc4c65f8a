"""Scans in a table with one row per scan, such as that of FOMO-60K: columns are named, rows are selected by value.

`list_table` reads the tables alone, so that a study of tens of thousands of scans can be planned without touching a
scan; `read_listed_scans` also checks that the files exist. Paths must lie below the root. Participants of different
data sets are different participants.
"""

import logging
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from neuromf.data.sources import demographics, values
from neuromf.data.sources.delimited import Line, Table, find_column, read_lines
from neuromf.data.sources.folder import part_problem, stem
from neuromf.data.sources.walk import missing_reason

logger = logging.getLogger(__name__)

Value = str | int | float | bool | None
Template = list[tuple[str, str | None]]  # pairs of text and the column that follows it
BOOLEANS = {True: {"true", "yes", "1"}, False: {"false", "no", "0"}}
OURS = ("file", "participant", "dataset", "scan", "mask", "site", "sex", "age")


def list_table(
    root: str | Path,
    scans: str,
    columns: Mapping[str, str],
    *,
    where: Mapping[str, Value | Sequence[Value]] | None = None,
    participants: str | None = None,
    join: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Rows of a participants table, from the table of scans alone; files are not checked.

    Arguments:
        root: Folder that the paths in the table start from.
        scans: Table of scans relative to root, tsv or csv.
        columns: Column for file and participant, and optionally dataset, scan, mask, site, sex and age; or a template
            of several columns, such as {"file": "{dataset}/{participant_id}/{filename}"}. With a dataset, the
            participant is named dataset/participant. Without a column for scan, the path gives the id of the scan.
        where: Selected rows: allowed value or values per column. "" stands for unknown.
        participants: Second table relative to root, whose columns can be used, too.
        join: Columns that both tables share and that match their rows.

    Raises:
        ValueError: If a table cannot be read, a column is missing, or no row is selected.
    """
    root = Path(root)
    table, name = read_lines(root / scans, "table of scans"), scans
    if not table.lines:
        raise ValueError(f"table of scans {root / scans} has no row; it needs a header and a row per scan")
    if participants:
        second = read_lines(root / participants, "participants table")
        table, name = _join(table, second, join, (scans, participants)), f"{scans} and {participants}"
    templates = {ours: _template(theirs, table.columns, ours, name) for ours, theirs in columns.items()}
    if absent := [ours for ours in ("file", "participant") if ours not in templates]:
        raise ValueError(f"columns must name file and participant; {' and '.join(absent)} missing")
    lines, meaning = _select(table, where or {}, name), _meaning(root, [scans, participants], columns)
    rows = [_row(root, line, templates, scans, meaning) for line in lines]
    for ours in {"age", "sex"} & templates.keys():
        cells = [_fill(templates[ours], line.cells) for line in lines]
        values.warn_unread(name, ours, cells, [row[ours] for row in rows])
    return _mark_duplicates(rows, scans)


def _meaning(root: Path, tables: Sequence[str | None], columns: Mapping[str, str]) -> values.Meaning:
    """What the JSON files of the tables say about ages and sexes."""
    found = [values.read_meaning(root / table, columns) for table in tables if table]
    return next((meaning for meaning in found if meaning != values.IN_YEARS), values.IN_YEARS)


def read_listed_scans(root: str | Path, *arguments: Any, **settings: Any) -> list[dict[str, Any]]:
    """`list_table`, with a problem for each row whose file or mask does not exist."""
    return [_check_files(row) for row in list_table(root, *arguments, **settings)]


def _join(scans: Table, participants: Table, join: Sequence[str], names: tuple[str, str]) -> Table:
    """The table of scans with the columns of the participants table, "" if it has no row for a scan."""
    if not join:
        raise ValueError(f"join must name the columns that {names[0]} and {names[1]} share; got none")
    for table, name in zip((scans, participants), names, strict=True):
        if missing := [column for column in join if column not in table.columns]:
            raise ValueError(f"{name} has no column {_list(missing)}, named in join; it has {_list(table.columns)}")
    known: dict[tuple, dict] = {}
    keys = [tuple(line.cells[column] for column in join) for line in scans.lines]
    repeated = 0
    for line in participants.lines:
        key = tuple(line.cells[column] for column in join)
        repeated += known.setdefault(key, line.cells) is not line.cells
    if repeated:
        logger.warning("%s: %d rows repeat the %s of an earlier row and are ignored", names[1], repeated, _list(join))
    if n := sum(key not in known for key in keys):
        logger.warning("%s: %d of %d rows have no row in %s", names[0], n, len(keys), names[1])
    blank = dict.fromkeys(participants.columns, "")
    rows = zip(scans.lines, keys, strict=True)
    lines = [Line(line.number, {**known.get(key, blank), **line.cells}) for line, key in rows]
    return Table(list(dict.fromkeys([*scans.columns, *participants.columns])), lines)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _template(theirs: str, header: Sequence[str], ours: str, name: str) -> Template:
    """Parse a column name or a template of several."""
    if ours not in OURS:
        raise ValueError(f"columns.{ours} is unknown; columns may name {_list(OURS)}")
    if column := find_column(header, theirs):
        return [("", column)]
    parts = [(text, field) for text, field, _, _ in string.Formatter().parse(theirs)]
    fields = [field for _, field in parts if field is not None] or [theirs]
    if missing := [field for field in fields if field not in header]:
        raise ValueError(f"columns.{ours} names {_list(missing)}, which {name} does not have; got {_list(header)}")
    return parts


def _fill(template: Template, cells: Mapping[str, str]) -> str:
    """The template with the cells of a row; "" if one of them is unknown."""
    if any(column is not None and not values.known_or_empty(cells[column]) for _, column in template):
        return ""
    return "".join(text + (cells[column] if column is not None else "") for text, column in template)


def _select(table: Table, where: Mapping[str, Value | Sequence[Value]], name: str) -> list[Line]:
    """Rows with an allowed value in each column of `where`."""
    lines = table.lines
    for column, wanted in where.items():
        if column not in table.columns:
            raise ValueError(f"where names {column}, which {name} does not have; got {_list(table.columns)}")
        several = [wanted] if wanted is None or isinstance(wanted, (str, int, float)) else wanted
        allowed = _matching_cells(table.lines, column, several, name)
        selected = [line for line in lines if line.cells[column] in allowed]
        if not selected:
            raise ValueError(
                f"where.{column} {wanted!r} selects no row of {name}; after the conditions before it, "
                f"{column} holds {_counts(lines, column)}"
            )
        lines = selected
    return lines


def _matching_cells(lines: Sequence[Line], column: str, wanted: Iterable[Value], name: str) -> set[str]:
    """Cells of a column that equal a wanted value; a value that no row has is refused as a typing error."""
    cells, allowed = {line.cells[column] for line in lines}, set()
    for value in wanted:
        if not (equal := {cell for cell in cells if _equals(cell, value)}):
            raise ValueError(
                f"where.{column} names {value!r}, which no row of {name} has; {column} holds {_counts(lines, column)}"
            )
        allowed |= equal
    return allowed


def _equals(cell: str, value: Value) -> bool:
    if value is None or value == "":
        return cell.lower() in values.UNKNOWN
    if isinstance(value, bool):
        return cell.lower() in BOOLEANS[value]
    if isinstance(value, str):
        return cell == value
    try:
        return float(cell) == value
    except ValueError:
        return False


def _counts(lines: Sequence[Line], column: str) -> str:
    counts = Counter(line.cells[column] for line in lines)
    listed = ", ".join(f"{value!r} ({n})" for value, n in counts.most_common(12))
    return listed if len(counts) <= 12 else f"{listed} and {len(counts) - 12} more"


def _row(
    root: Path, line: Line, templates: Mapping[str, Template], scans: str, meaning: values.Meaning
) -> dict[str, Any]:
    """The row of one line of the table, with its first error as the problem."""
    cells = {ours: _fill(template, line.cells) for ours, template in templates.items()}
    here = f"line {line.number} of {scans}"
    relative, problem = _below(root, cells["file"], here, "file")
    mask, no_mask = _below(root, cells["mask"], here, "mask") if cells.get("mask") else ("", "")
    participant = values.participant_id(cells["participant"])
    if not participant:
        problem = problem or f"no participant: {here} names no participant for {relative}"
    name = stem(cells.get("scan") or relative) or f"{PurePosixPath(scans).stem}-line-{line.number}"
    return demographics.blank_row(
        name,
        f"{cells['dataset']}/{participant}" if participant and cells.get("dataset") else participant or name,
        problem or no_mask or part_problem(PurePosixPath(relative).name),
        file=str(root / relative) if relative else "",
        mask=str(root / mask) if mask else "",
        sex=values.parse_sex(cells.get("sex", ""), meaning),
        age=values.parse_age(cells.get("age", ""), meaning),
        site=cells.get("site", ""),
        line=line.number,
    )


def _below(root: Path, path: str, here: str, what: str) -> tuple[str, str]:
    """A path relative to root and its problem; a path outside root is refused."""
    if not path:
        return "", f"missing {what}: {here} names none"
    pure = PurePosixPath(path)
    if pure.is_absolute() and pure.is_relative_to(root):
        pure = pure.relative_to(root)
    if pure.is_absolute() or ".." in pure.parts:
        return "", f"outside root: {here} names {path}, but a {what} must lie below {root}, without '..' in its path"
    return str(pure), ""


def _mark_duplicates(rows: list[dict[str, Any]], scans: str) -> list[dict[str, Any]]:
    """Rows, with a problem for each file of an earlier row."""
    first: dict[str, int] = {}
    for row in rows:
        line = row.pop("line")
        if not row["file"]:
            continue
        before = first.setdefault(demographics.normalise_path(row["file"]), line)
        if before != line and not row["problem"]:
            row["problem"] = f"duplicate file: line {line} of {scans} names {row['file']}, as line {before} does"
    return rows


def _check_files(row: dict) -> dict[str, Any]:
    """The row with paths in the Unicode form of the disk, and a problem for a file that does not exist."""
    if row["problem"]:
        return row
    paths = {what: path_on_disk(row[what]) or row[what] for what in ("file", "mask") if row[what]}
    problems = (missing_reason(path, what) for what, path in paths.items())
    return row | paths | {"problem": next(filter(None, problems), "")}


def path_on_disk(path: str) -> str | None:
    """The Unicode form of a path that exists, if any."""
    forms = dict.fromkeys([path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))])
    return next((form for form in forms if Path(form).exists()), None)
