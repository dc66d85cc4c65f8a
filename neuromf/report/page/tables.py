"""Tables of the page: every cell has a printed text and a value to sort by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from neuromf.report.results import Results
from neuromf.report.tables import style
from neuromf.report.templating import number

DASH = "–"


class Header(NamedTuple):
    """Header of a column: its text, a second line, and whether the column holds numbers."""

    text: str
    below: str = ""
    numeric: bool = True


class Cell(NamedTuple):
    """Printed text, value to sort by ("" if missing), and a superscript."""

    text: str
    sort: str | float
    mark: str = ""


class Table(NamedTuple):
    """A sortable table."""

    name: str
    headers: list[Header]
    rows: list[list[Cell]]
    notes: Sequence[str] = ()


def paper_table(name: str, results: Results) -> Table | None:
    """A table of the paper, printed like its LaTeX; like its CSV if the provenance file lists no columns.

    Raises:
        FileNotFoundError: If the CSV of the table is missing.
    """
    record, path = results.json(f"tables/{name}.json"), results.path(f"tables/{name}.csv")
    if path is None:
        raise FileNotFoundError(f"tables/{name}.json exists in {results.root}, but tables/{name}.csv is missing; run "
                                f"the rule of {name} again")  # fmt: skip
    frame = pd.read_csv(path, dtype={"published": str, "mark": str}).fillna({"mark": "", "source": ""})
    notes = record.get("notes", ())
    if "columns" not in record:
        return data_table(name, frame, notes=notes)
    columns = [style.Column(**column) for column in record["columns"]]
    headers = [Header(column.header or "set", column.below, column.kind != "text") for column in columns]
    rows = [[Cell(row["group"], row["group"]), *(_printed(row, c) for c in columns)] for _, row in frame.iterrows()]
    return Table(name, [Header("group", numeric=False), *headers], rows, notes)


def data_table(
    name: str, frame: pd.DataFrame, headers: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> Table | None:
    """Any table, numbers with three significant digits; None without rows.

    Arguments:
        name: Identifier on the page.
        frame: Content.
        headers: Column names and their headers, columns that the frame lacks are skipped; None for all columns.
        notes: Paragraphs below the table.
    """
    if frame.empty:
        return None
    headers = headers or {column: column.replace("_", " ") for column in frame.columns}
    headers = {column: text for column, text in headers.items() if column in frame}
    rows = [[_cell(row[column]) for column in headers] for row in frame[list(headers)].to_dict("records")]
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in headers]
    return Table(name, [Header(text, "", n) for text, n in zip(headers.values(), numeric, strict=True)], rows, notes)


def _printed(row: pd.Series, column: style.Column) -> Cell:
    text, value = style.cell(row, column), row[column.key]
    mark = str(row.get("mark", "")) if column.key == "name" else ""
    return Cell(DASH if text == style.MISSING else text, "" if pd.isna(value) or not text else _key(value), mark)


def _cell(value: Any) -> Cell:  # noqa: ANN401
    if value is None or value is pd.NA or value == "" or isinstance(value, float) and math.isnan(value):
        return Cell(DASH, "")
    return Cell("yes" if value is True else "no" if value is False else number(value), _key(value))


def _key(value: object) -> str | float:
    """Value to sort by: a number if the value is one, also as text."""
    try:
        return float(value)  # type: ignore[arg-type]  # other types raise and are caught
    except (TypeError, ValueError):
        return str(value)
