"""Strict reader of tsv and csv tables: UTF-8, with or without a byte-order mark, any line ends, quoted fields.

A cell in the wrong column is worse than no table, so an irregular table is refused with the number of its line.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons"}


class Line(NamedTuple):
    """One row: the number of its first line in the file, and its stripped cells by column."""

    number: int
    cells: dict[str, str]


class Table(NamedTuple):
    """Column names, in order, and rows."""

    columns: list[str]
    lines: list[Line]


def read_lines(path: Path, what: str) -> Table:
    """Read a table: *.csv is separated by commas, any other file by tabs; rows without a filled cell are skipped.

    Arguments:
        path: Path of the table.
        what: Kind of table for messages, such as "participants table".

    Raises:
        ValueError: If the table does not exist or is irregular.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(file, "," if path.suffix.lower() == ".csv" else "\t", f"{what} {path}")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} {path} is not UTF-8 text ({error.reason}, byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        if not path.is_file():
            raise ValueError(f"{what} {path} does not exist; correct the key, or leave it out") from error
        raise ValueError(f"{what} {path} cannot be read: {error.strerror}") from error


def _parse(file: Iterable[str], separator: str, name: str) -> Table:
    reader = csv.reader(file, delimiter=separator, strict=True)
    lines, begins = [], 1
    try:
        columns = [column.strip() for column in next(reader, [])]
        _check_header(columns, separator, name)
        begins = reader.line_num + 1
        for cells in reader:
            if any(map(str.strip, cells)):
                lines.append(Line(begins, _cells(columns, cells, f"line {begins} of {name}")))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {begins} of {name} cannot be read: {error}; a field that begins with a quote ends with one, "
            "and a quote inside it is doubled"
        ) from error
    return Table([column for column in columns if column], lines)


def _check_header(columns: Sequence[str], separator: str, name: str) -> None:
    if twice := [column for column, n in Counter(columns).items() if n > 1 and column]:
        raise ValueError(f"{name} has two columns {', '.join(twice)}; rename or remove one")
    others = [other for other in SEPARATORS if other != separator and other in columns[0]] if len(columns) == 1 else []
    if others:
        raise ValueError(
            f"{name} seems to be separated by {SEPARATORS[others[0]]}, not by {SEPARATORS[separator]}: its only column "
            f"is {columns[0]!r}; save it with commas as *.csv, or with tabs as *.tsv"
        )


def _cells(columns: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str]:
    if len(cells) > len(columns) and any(cells[len(columns) :]):
        raise ValueError(
            f"{where} has {len(cells)} fields, its header {len(columns)}; quote a field that holds the separator"
        )
    filled = [*cells, *[""] * (len(columns) - len(cells))]
    return {column: cell.strip() for column, cell in zip(columns, filled, strict=False) if column}


def find_column(columns: Iterable[str], name: str) -> str | None:
    """The column of this name, else one that differs in capitals only; None if missing."""
    alike = [column for column in columns if column.lower() == name.lower()]
    return name if name in alike else alike[0] if alike else None
