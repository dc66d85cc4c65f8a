"""The paper as LaTeX: sections from templates, with the figures and tables of the study."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuromf.report.paper.numbers import Numbers
from neuromf.report.tables.style import escape

TEMPLATES = Path(__file__).with_name("templates")
COLUMN_PT = 300  # points: wider figures take both columns


def environment() -> Environment:
    """The environment of the templates, with marks that LaTeX has no use for; an unknown name is an error."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["tex"] = escape
    return env


def document(numbers: Numbers, settings: Mapping[str, Any], folder: Path, template: str = "paper") -> str:
    """The whole paper, or one of its sections.

    Arguments:
        numbers: Lookups in the results; it remembers what it was asked.
        settings: study; figures and tables, each by name with why this study has none of it ("" where it should be
            there); evaluations; digest of the code.
        folder: Where the text will lie: figures and tables are named from there.
        template: paper, or a section.
    """
    context = {
        **settings,
        "study": escape(settings["study"]),
        "q": numbers,
        "trained": {**numbers.values, **numbers.results.card().get("config", {})},
        "many": max(settings["evaluations"]),
        "figure_file": lambda name: _file(numbers, f"figures/{name}.pdf", folder),
        "table_file": lambda name: _file(numbers, f"tables/{name}.tex", folder),
        "wide": lambda name: is_wide(numbers, name),
        "numbered": lambda name: int(name.rpartition("_")[2]),  # as their files are, whatever is missing
        "why": lambda name: _why(numbers, settings, name),
    }
    return environment().get_template(f"{template}.tex.j2").render(context)


def is_wide(numbers: Numbers, name: str) -> bool:
    """Whether a figure takes both columns; one that is missing does not."""
    path = numbers.results.file(f"figures/{name}.pdf")
    if path is None:
        return False
    box = re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", path.read_bytes())
    return box is None or float(box[1]) > COLUMN_PT


def _file(numbers: Numbers, name: str, folder: Path) -> str:
    """The path of a file of the results as seen from a folder, "" where it is not there."""
    path = numbers.results.file(name)
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix() if path else ""


def _why(numbers: Numbers, settings: Mapping[str, Any], name: str) -> str:
    """Why a figure or table is not there, which makes it one of the things that are missing."""
    reason = {**settings["figures"], **settings["tables"]}.get(name) or "it was not made"
    numbers.missing.append(f"{name}: {reason}")
    return escape(reason)
