r"""Tables of the paper: tidy results in; LaTeX (booktabs), CSV and a side file with the provenance out.

A table is a DataFrame with the columns group and name and one column per quantity; an interval is in {column}_low and
{column}_high. `Column` describes how a column is printed. A missing value is empty in the CSV and a dash in LaTeX. A
value that a group of rows cannot have is blank in both.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.core.files import atomic_write, write_json

MISSING = "--"
DIGITS = 3  # significant digits of a number without an interval
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
           ">": r"\textgreater{}", "|": r"\textbar{}", **{c: "\\" + c for c in "&%$#_{}"}}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """How a column of a table is printed.

    Arguments:
        key: Column of the DataFrame.
        header, below: First and second line of the header; units and features are in the second.
        kind: "number" (with its interval, if it has one), "whole" or "text".
        factor: Factor of printed numbers.
        groups: Groups of rows that can have a value; None for all. Other groups are blank, not missing.
        interval: Whether the interval is printed; the CSV always has it.
    """

    key: str
    header: str
    below: str = ""
    kind: str = "number"
    factor: float = 1
    groups: Collection[str] | None = None
    interval: bool = True


def measured(rows: pd.DataFrame, metric: str, features: str, key: str) -> dict[str, Any]:
    """Cells {key}, {key}_low, {key}_high and {key}_n of one metric; none if it was not measured.

    Raises:
        ValueError: If the metric has several rows.
    """
    found = rows[(rows["metric"] == metric) & (rows["features"] == features)]
    if len(found) > 1:
        raise ValueError(f"{metric} {features}".strip() + f" has {len(found)} rows, expected one; evaluate again")
    columns: Mapping[str, str] = {"value": key, **{name: f"{key}_{name}" for name in ("low", "high", "n")}}
    return found[list(columns)].rename(columns=columns).iloc[0].to_dict() if len(found) else {}


def number(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number and its interval, with the digits that the interval allows; three significant digits without one.

    The interval has two significant digits of half its width, and the value as many decimals.
    """
    if not math.isfinite(value):
        return MISSING
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return f"{value:,.{decimals(abs(value), DIGITS)}f}"
    places = decimals((high - low) / 2, 2)
    return f"{value:,.{places}f} ({low:,.{places}f} to {high:,.{places}f})"


def decimals(size: float, digits: int) -> int:
    """Decimals of a number of this size for this many significant digits, at least 0."""
    if size == 0:
        return 0
    first = math.floor(math.log10(size))
    if round(size, digits - 1 - first) >= 10 ** (first + 1):  # 9.96 is printed as 10.0
        first += 1
    return max(0, digits - 1 - first)


def escape(text: str) -> str:
    """Text for LaTeX: special characters escaped, a minus sign before digits."""
    escaped = "".join(SPECIAL.get(c, c) for c in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def cell(row: pd.Series, column: Column) -> str:
    """Printed text of a cell, not yet escaped."""
    value = row[column.key]
    if column.groups is not None and row["group"] not in column.groups:
        return ""
    if pd.isna(value) or value == "":
        return MISSING
    if column.kind == "text" or isinstance(value, str):  # published numbers keep their digits
        return str(value)
    if column.kind == "whole":
        return f"{int(value):,}"
    ends = [row.get(f"{column.key}_{end}", math.nan) if column.interval else math.nan for end in ("low", "high")]
    return number(*(column.factor * float(each) for each in (value, *ends)))


def latex(table: pd.DataFrame, columns: Sequence[Column], notes: Sequence[str] = ()) -> str:
    r"""A tabular with booktabs rules: \input it inside a table environment, with \usepackage{booktabs}.

    The first column is aligned left, the others right. A line with its name precedes each group of rows. Notes follow
    in small type, one paragraph each.
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
    table: pd.DataFrame, columns: Sequence[Column], notes: Sequence[str], stem: str | Path, provenance: dict
) -> None:
    """Write stem.tex, stem.csv and stem.json, each atomically.

    Arguments:
        table, columns, notes: Table, its printed columns, and the texts under it.
        stem: Path of the files without suffix.
        provenance: Config values, runs and files behind the table, as JSON types. The first line of the LaTeX file has
            them as a comment; the side file adds notes, columns, and the number of missing cells of each column.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    missing = {c.key: sum(cell(row, c) == MISSING for _, row in table.iterrows()) for c in columns}
    missing = {key: n for key, n in missing.items() if n}
    printed = [{**asdict(c), "groups": None if c.groups is None else sorted(c.groups)} for c in columns]
    about = {**provenance, "rows": len(table), "missing": missing, "notes": list(notes), "columns": printed}
    with atomic_write(stem.with_name(f"{stem.name}.tex")) as part:
        comment = f"% {json.dumps(provenance, sort_keys=True)}\n"
        part.write_text(comment + latex(table, columns, notes), encoding="utf-8")
    with atomic_write(stem.with_name(f"{stem.name}.csv")) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
    write_json(stem.with_name(f"{stem.name}.json"), about, indent=2)
