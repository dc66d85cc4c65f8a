"""Tables as a page shows them: every cell with what is printed and what it is sorted by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from neuromf.report.captions.render import number
from neuromf.report.results import Results
from neuromf.report.tables import style

DASH = "–"


class Head(NamedTuple):
    """The head of a column: its words, a second line, and whether it holds numbers."""

    text: str
    below: str = ""
    numeric: bool = True


class Cell(NamedTuple):
    """What is printed, what it is sorted by (a number, text, or "" where it is missing), and a mark behind it."""

    text: str
    sort: str | float
    mark: str = ""


class Table(NamedTuple):
    """A table of a page."""

    name: str
    heads: list[Head]
    rows: list[list[Cell]]
    notes: Sequence[str] = ()


def of_paper(name: str, results: Results) -> Table:
    """A table of the paper, printed as its LaTeX is; as its CSV stands where the side file names no columns."""
    facts, frame = results.facts(f"tables/{name}.json"), _csv(name, results)
    if "columns" not in facts:
        return of_frame(name, frame, notes=facts.get("notes", ()))
    columns = [style.Column(**column) for column in facts["columns"]]
    heads = [Head("group", numeric=False)]
    heads += [Head(column.header or "set", column.below, column.kind != "text") for column in columns]
    rows = [[Cell(row["group"], row["group"]), *(_printed(row, c) for c in columns)] for _, row in frame.iterrows()]
    return Table(name, heads, rows, facts.get("notes", ()))


def of_frame(
    name: str, frame: pd.DataFrame, heads: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> Table:
    """Any table, numbers in three significant digits.

    Arguments:
        heads: Columns that are shown and what stands above them; all of them under their own names where not given.
    """
    shown = heads or {column: column.replace("_", " ") for column in frame.columns}
    numeric = {column: pd.api.types.is_numeric_dtype(frame[column]) for column in shown}
    rows = [[_cell(row[column]) for column in shown] for row in frame[list(shown)].to_dict("records")]
    return Table(name, [Head(text, numeric=numeric[column]) for column, text in shown.items()], rows, notes)


def _csv(name: str, results: Results) -> pd.DataFrame:
    path = results.file(f"tables/{name}.csv")
    if path is None:
        raise FileNotFoundError(f"no tables/{name}.csv in {results.root}, though its side file is there; make it again")
    return pd.read_csv(path, dtype={"published": str, "mark": str}).fillna({"mark": "", "source": ""})


def _printed(row: pd.Series, column: style.Column) -> Cell:
    text = style.cell(row, column)
    value = row[column.key]
    mark = str(row.get("mark", "")) if column.key == "name" else ""
    return Cell(DASH if text == style.MISSING else text, "" if pd.isna(value) or not text else _key(value), mark)


def _cell(value: Any) -> Cell:  # noqa: ANN401
    if value is None or value == "" or isinstance(value, float) and math.isnan(value):
        return Cell(DASH, "")
    return Cell("yes" if value is True else "no" if value is False else number(value), _key(value))


def _key(value: object) -> str | float:
    """What a cell is sorted by: a number where it is one, in text too."""
    try:
        return float(value)  # type: ignore[arg-type]  # what cannot be one is caught
    except (TypeError, ValueError):
        return str(value)
