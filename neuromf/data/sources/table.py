"""Scans from a table with a row per scan, such as that of FOMO-60K; its columns are named, its rows chosen by value.

The table alone says who is in, so that a study of tens of thousands can be planned without looking for a file; a
file is looked for when the cohort is made. Paths lie below the root: a table may come from anyone, and one that
points elsewhere is not followed. A person of one dataset is never one of another.
"""

import logging
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from neuromf.data.sources.delimited import Line, Table, find_column, read_lines
from neuromf.data.sources.demographics import UNKNOWN, age_of, blank_row, known, normal, person_id, sex_of
from neuromf.data.sources.folder import stem

logger = logging.getLogger(__name__)

Value = str | int | float | bool | None
Template = list[tuple[str, str | None]]  # text, and the column that follows it
WORDS = {True: {"true", "yes", "1"}, False: {"false", "no", "0"}}
OURS = ("file", "person", "dataset", "scan", "mask", "site", "sex", "age")
FORMATTER = string.Formatter()


def list_table(
    root: str | Path,
    scans: str,
    columns: Mapping[str, str],
    *,
    where: Mapping[str, Value | Sequence[Value]] | None = None,
    participants: str | None = None,
    join: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The rows of a table of scans, from the tables alone; no file is looked for.

    Arguments:
        root: The folder that paths in the table start from.
        scans: The table, relative to root, tsv or csv.
        columns: Their column for each of file and person, and any of dataset, scan, mask, site, sex and age; or a
            template of several, such as {"file": "{dataset}/{participant_id}/{filename}"}. With a dataset, a
            person is named dataset/person. A scan is named after its path where there is no column for it.
        where: Rows to keep: the value of a column, or several. "" stands for what is unknown.
        participants: A second table, relative to root, whose columns can be named too.
        join: Columns that tell which of its rows belongs to a scan; both tables have them.
    Raises:
        ValueError: If a table cannot be read, a column is not there, or no row is left.
    """
    root = Path(root)
    table, name = read_lines(root / scans, "table of scans"), scans
    if not table.lines:
        raise ValueError(f"table of scans {root / scans} has no row; it needs a header and a row per scan")
    if participants:
        people = read_lines(root / participants, "participants table")
        table, name = _joined(table, people, join, (scans, participants)), f"{scans} and {participants}"
    templates = {ours: _template(theirs, table.columns, ours, name) for ours, theirs in columns.items()}
    if absent := [ours for ours in ("file", "person") if ours not in templates]:
        raise ValueError(f"columns must name file and person; {' and '.join(absent)} missing")
    kept = _chosen(table, where or {}, name)
    return _once([_describe(root, line, templates, scans) for line in kept], scans)


def read_listed(root: str | Path, *arguments: Any, **settings: Any) -> list[dict[str, Any]]:
    """`list_table`, and a problem for each row whose file or mask is not there."""
    return [_looked_up(row, Path(root)) for row in list_table(root, *arguments, **settings)]


def _joined(scans: Table, people: Table, join: Sequence[str], names: tuple[str, str]) -> Table:
    """The scans with the cells of the people they belong to; empty ones where there is no such row."""
    if not join:
        raise ValueError(f"join must name the columns that {names[0]} and {names[1]} share; got none")
    for table, name in zip((scans, people), names, strict=True):
        if odd := [column for column in join if column not in table.columns]:
            raise ValueError(f"{name} has no column {_list(odd)}, which join names; it has {_list(table.columns)}")
    known_people: dict[tuple, dict] = {}
    repeated = sum(known_people.setdefault(_cut(line, join), line.cells) is not line.cells for line in people.lines)
    if repeated:
        logger.warning("%s: %d rows repeat the %s of an earlier one, left out", names[1], repeated, _list(join))
    if n := sum(_cut(line, join) not in known_people for line in scans.lines):
        logger.warning("%s: %d of %d rows have no row in %s", names[0], n, len(scans.lines), names[1])
    nobody = dict.fromkeys(people.columns, "")
    lines = [Line(line.number, {**known_people.get(_cut(line, join), nobody), **line.cells}) for line in scans.lines]
    return Table(list(dict.fromkeys([*scans.columns, *people.columns])), lines)


def _cut(line: Line, join: Sequence[str]) -> tuple[str, ...]:
    return tuple(line.cells[column] for column in join)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _template(theirs: str, header: Sequence[str], ours: str, name: str) -> Template:
    """The column that is named, or the template of columns."""
    if ours not in OURS:
        raise ValueError(f"columns.{ours} is unknown; columns may name {_list(OURS)}")
    if column := find_column(header, theirs):
        return [("", column)]
    parts = [(text, field) for text, field, _, _ in FORMATTER.parse(theirs)]
    fields = [field for _, field in parts if field is not None] or [theirs]
    if odd := [field for field in fields if field not in header]:
        raise ValueError(f"columns.{ours} names {_list(odd)}, which {name} does not have; got {_list(header)}")
    return parts


def _filled(template: Template, cells: Mapping[str, str]) -> str:
    """A template with the cells of a row, or "" where one of them is unknown."""
    if any(column is not None and not known(cells[column]) for _, column in template):
        return ""
    return "".join(text + (cells[column] if column is not None else "") for text, column in template)


# --- which rows --------------------------------------------------------------------------------------


def _chosen(table: Table, where: Mapping[str, Value | Sequence[Value]], name: str) -> list[Line]:
    """Lines that hold, in each column named, one of the values wanted."""
    kept = table.lines
    for column, wanted in where.items():
        if column not in table.columns:
            raise ValueError(f"where names {column}, which {name} does not have; got {_list(table.columns)}")
        values = [wanted] if wanted is None or isinstance(wanted, (str, int, float)) else wanted
        allowed = _matching(table.lines, column, values, name)
        left = [line for line in kept if line.cells[column] in allowed]
        if not left:
            raise ValueError(
                f"where.{column} {wanted!r} leaves no row of {name}; after what stands before it, "
                f"{column} holds {_held(kept, column)}"
            )
        kept = left
    return kept


def _matching(lines: Sequence[Line], column: str, wanted: Iterable[Value], name: str) -> set[str]:
    """Those of a column's values that are wanted; a value wanted that no row has is refused, as it is a slip."""
    cells, allowed = {line.cells[column] for line in lines}, set()
    for value in wanted:
        if not (same := {cell for cell in cells if _same(cell, value)}):
            raise ValueError(
                f"where.{column} names {value!r}, which no row of {name} has; {column} holds {_held(lines, column)}"
            )
        allowed |= same
    return allowed


def _same(cell: str, value: Value) -> bool:
    if value is None or value == "":
        return cell.lower() in UNKNOWN
    if isinstance(value, bool):
        return cell.lower() in WORDS[value]
    if isinstance(value, str):
        return cell == value
    try:
        return float(cell) == value
    except ValueError:
        return False


def _held(lines: Sequence[Line], column: str) -> str:
    counts = Counter(line.cells[column] for line in lines)
    shown = ", ".join(f"{value!r} ({n})" for value, n in counts.most_common(12))
    return shown if len(counts) <= 12 else f"{shown} and {len(counts) - 12} more"


# --- a row -------------------------------------------------------------------------------------------


def _describe(root: Path, line: Line, templates: Mapping[str, Template], scans: str) -> dict[str, Any]:
    """The row of one line, with what the line itself gets wrong as its problem."""
    cells = {ours: _filled(template, line.cells) for ours, template in templates.items()}
    here = f"line {line.number} of {scans}"
    relative, problem = _below(root, cells["file"], here, "file")
    mask, no_mask = _below(root, cells["mask"], here, "mask") if cells.get("mask") else ("", "")
    person = person_id(cells["person"])
    if not person:
        problem = problem or f"no person: {here} does not say whose scan {relative} is"
    name = stem(cells.get("scan") or relative) or f"{PurePosixPath(scans).stem}-line-{line.number}"
    return blank_row(
        name,
        f"{cells['dataset']}/{person}" if person and cells.get("dataset") else person or name,
        problem or no_mask,
        file=str(root / relative) if relative else "",
        mask=str(root / mask) if mask else "",
        sex=sex_of(cells.get("sex", "")),
        age=age_of(cells.get("age", "")),
        site=cells.get("site", ""),
        line=line.number,
    )


def _below(root: Path, path: str, here: str, what: str) -> tuple[str, str]:
    """A path relative to root, and what is wrong with it; a path that leaves root is not followed."""
    if not path:
        return "", f"missing {what}: {here} names none"
    pure = PurePosixPath(path)
    if pure.is_absolute() and pure.is_relative_to(root):
        pure = pure.relative_to(root)
    if pure.is_absolute() or ".." in pure.parts:
        return "", f"outside root: {here} names {path}, but a {what} lies below {root}, and its path has no '..'"
    return str(pure), ""


def _once(rows: Sequence[dict], scans: str) -> list[dict[str, Any]]:
    """Rows, with a problem for each whose file an earlier row has."""
    first: dict[str, int] = {}
    for row in rows:
        line = row.pop("line")
        if not row["file"]:
            continue
        before = first.setdefault(normal(row["file"]), line)
        if before != line and not row["problem"]:
            row["problem"] = f"duplicate file: line {line} of {scans} names {row['file']}, as line {before} does"
    return list(rows)


def _looked_up(row: dict, root: Path) -> dict[str, Any]:
    """The row with paths as the disk spells them, and a problem where there is nothing."""
    if row["problem"]:
        return row
    found = {what: _on_disk(row[what]) for what in ("file", "mask") if row[what]}
    lost = next((what for what, path in found.items() if path is None), None)
    problem = f"missing {lost}: {row[lost]} does not exist" if lost else ""
    return row | {what: path for what, path in found.items() if path} | {"problem": problem}


def _on_disk(path: str) -> str | None:
    """The spelling of a path's accents that exists, if any."""
    spellings = dict.fromkeys([path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))])
    return next((spelling for spelling in spellings if Path(spelling).exists()), None)
