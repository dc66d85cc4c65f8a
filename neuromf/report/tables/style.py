r"""Tables of the paper: tidy results in, LaTeX (booktabs) and CSV out, with a side file that says what made them.

A table is a DataFrame, one row per line, with the columns group and name; a quantity is a column, its interval
{column}_low and {column}_high where it has one. `Column`s say what is printed and how. What was not measured is
missing: an empty field in the CSV, a dash in LaTeX. What a group of rows cannot have is blank in both.
"""

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from neuromf.core.files import atomic_write

MISSING = "--"
DIGITS = 3  # significant ones, of a number without an interval
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
           ">": r"\textgreater{}", "|": r"\textbar{}", **{c: "\\" + c for c in "&%$#_{}"}}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """How a column of a table is printed.

    Arguments:
        key: The column of the DataFrame.
        header, below: First and second line of its head; units and features stand in the second.
        kind: "number" (with its interval, where it has one), "whole" or "text".
        factor: What numbers are multiplied with for print.
        groups: Groups of rows that can have it; None for all. Others are left blank, not missing.
        interval: Whether a number's interval is printed; the CSV has it in any case.
    """

    key: str
    header: str
    below: str = ""
    kind: str = "number"
    factor: float = 1
    groups: Collection[str] | None = None
    interval: bool = True


# --- numbers and text --------------------------------------------------------------------------------


def number(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number with the digits that its interval (or three significant ones) allows, and the interval.

    An interval is given to two significant digits of half its width, and the value to as many decimals.
    """
    if not math.isfinite(value):
        return MISSING
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return f"{value:,.{decimals(abs(value), DIGITS)}f}"
    places = decimals((high - low) / 2, 2)
    return f"{value:,.{places}f} ({low:,.{places}f} to {high:,.{places}f})"


def decimals(size: float, digits: int) -> int:
    """Decimals that show a number of this size with so many significant digits; never below the units."""
    if size == 0:
        return 0
    first = math.floor(math.log10(size))
    if round(size, digits - 1 - first) >= 10 ** (first + 1):  # 9.96 is shown as 10.0
        first += 1
    return max(0, digits - 1 - first)


def escape(text: str) -> str:
    """Text as LaTeX prints it: its special characters escaped, a minus sign before digits."""
    escaped = "".join(SPECIAL.get(c, c) for c in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def cell(row: pd.Series, column: Column) -> str:
    """What a column prints for a row, not yet escaped."""
    value = row[column.key]
    if column.groups is not None and row["group"] not in column.groups:
        return ""
    if pd.isna(value) or value == "":
        return MISSING
    if column.kind == "text" or isinstance(value, str):  # a quoted number keeps the digits it was published with
        return str(value)
    if column.kind == "whole":
        return f"{int(value):,}"
    ends = [row.get(f"{column.key}_{end}", math.nan) if column.interval else math.nan for end in ("low", "high")]
    return number(*(column.factor * float(each) for each in (value, *ends)))


# --- LaTeX and files ---------------------------------------------------------------------------------


def latex(table: pd.DataFrame, columns: Sequence[Column], notes: Sequence[str] = ()) -> str:
    r"""A tabular with booktabs rules: \input it inside a table environment, with \usepackage{booktabs}.

    The first column is on the left, others on the right. Each group has a line of its own above its rows. Notes follow
    in small type under the tabular, a paragraph each.
    """
    width = len(columns)
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * (width - 1)}@{{}}}}", r"\toprule"]
    lines += [_line([escape(column.header) for column in columns])]
    if any(column.below for column in columns):
        lines += [_line([escape(column.below) for column in columns])]
    for group, rows in table.groupby("group", sort=False):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{escape(group)}}}}} \\"]
        lines += [_line([_printed(row, column) for column in columns]) for _, row in rows.iterrows()]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        small = "\n\n".join(escape(note) for note in notes)
        lines += ["", r"\medskip", rf"{{\raggedright\footnotesize {small}\par}}"]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _printed(row: pd.Series, column: Column) -> str:
    text = escape(cell(row, column))
    mark = row.get("mark", "") if column.key == "name" else ""
    return rf"{text}\textsuperscript{{{escape(mark)}}}" if mark else text


def save(
    table: pd.DataFrame, columns: Sequence[Column], stem: str | Path, provenance: dict, notes: Sequence[str] = ()
) -> None:
    """Write stem.tex, stem.csv and stem.json, each whole or not at all.

    Arguments:
        stem: Path of the files without their suffix.
        provenance: Config, code digest, run ids and the like, in the words of JSON; it is also the first line of
            the LaTeX file, as a comment. The side file adds notes, columns, and how many cells of each are missing.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    absent = {c.key: sum(cell(row, c) == MISSING for _, row in table.iterrows()) for c in columns}
    absent = {key: n for key, n in absent.items() if n}
    shown = [{**asdict(c), "groups": None if c.groups is None else sorted(c.groups)} for c in columns]
    about = {**provenance, "rows": len(table), "missing": absent, "notes": list(notes), "columns": shown}
    facts = json.dumps(provenance, sort_keys=True)
    _write(stem.with_name(f"{stem.name}.tex"), f"% {facts}\n{latex(table, columns, notes)}")
    _write(stem.with_name(f"{stem.name}.csv"), table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    _write(stem.with_name(f"{stem.name}.json"), json.dumps(about, sort_keys=True, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
