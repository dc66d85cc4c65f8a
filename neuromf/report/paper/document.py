"""The draft of the paper: LaTeX sections from templates, with the figures and tables of the study."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from neuromf.core.files import write_text
from neuromf.report import templating
from neuromf.report.paper import latex
from neuromf.report.paper.numbers import Numbers
from neuromf.report.results import Results
from neuromf.report.tables.style import escape

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).with_name("templates")
COLUMN_PT = 300  # points: wider figures span both columns


def write_paper(
    *,
    results: Results,
    study: str,
    config: Mapping[str, Any],
    phases: Sequence[int],
    figures: Mapping[str, str],
    tables: Mapping[str, str],
    out: Path,
    numbers: Path,
) -> None:
    """Write the draft as LaTeX, and every number in it with its source as JSON.

    Arguments:
        results: Results of the study.
        study: Name of the study.
        config: Config sections cohort, volumes, autoencoder and meanflow (net, flow, train, samples).
        phases: Phases whose gates the limitations list.
        figures, tables: Figures and tables of the paper, each with the reason why this study lacks it ("" if it has
            it).
        out: LaTeX file. It refers to figures and tables by relative path.
        numbers: JSON file with study, run, numbers (text, source, key, value) and missing values.
    """
    sections = {name: section for name, section in config.items() if name != "meanflow"} | dict(config["meanflow"])
    lookups = Numbers(results, sections)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, document(lookups, study, phases, {**figures, **tables}, out.parent))
    missing = sorted(set(lookups.missing))
    record = {"study": study, "run": results.run, "numbers": lookups.printed, "missing": missing}
    write_text(numbers, json.dumps(record, indent=1, default=float) + "\n")
    if missing:
        logger.warning("missing in the paper: %s", "; ".join(missing))
    if latex.engine() is None:
        logger.warning(latex.INSTALL)


def document(
    numbers: Numbers,
    study: str,
    phases: Sequence[int],
    floats: Mapping[str, str],
    folder: Path,
    template: str = "paper",
) -> str:
    """LaTeX of the paper, or of one of its sections.

    Arguments:
        numbers: Lookups in the results.
        study: Name of the study.
        phases: Phases whose gates the limitations list.
        floats: Figures and tables by name, with the reason why this study lacks them ("" if it has them).
        folder: Folder of the LaTeX file.
        template: "paper", or the name of a section.
    """
    context = {
        "q": numbers,
        "study": escape(study),
        "phases": phases,
        "config": numbers.settings,
        "many": max(numbers.config["samples"]["nfe"]),
        "figure_file": lambda name: _relative(numbers, f"figures/{name}.pdf", folder),
        "table_file": lambda name: _relative(numbers, f"tables/{name}.tex", folder),
        "wide": lambda name: is_wide(numbers.results.path(f"figures/{name}.pdf")),
        "numbered": lambda name: int(name.rpartition("_")[2]),  # as in the file name, even if others are missing
        "reason": lambda name: _reason(numbers, name, floats.get(name) or "not generated yet"),
    }
    return environment().get_template(f"{template}.tex.j2").render(context)


def environment() -> Environment:
    """Environment of the paper templates, with delimiters that LaTeX does not use."""
    env = templating.environment(
        TEMPLATES, variable_start_string="<<", variable_end_string=">>", block_start_string="<%", block_end_string="%>",
        comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    env.filters["tex"] = escape
    return env


def is_wide(path: Path | None) -> bool:
    """Whether a PDF figure spans both columns; False if it is missing."""
    if path is None:
        return False
    box = re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", path.read_bytes())
    return box is None or float(box[1]) > COLUMN_PT


def _relative(numbers: Numbers, name: str, folder: Path) -> str:
    """Path of a result file relative to a folder, "" if the file is missing."""
    path = numbers.results.path(name)
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix() if path else ""


def _reason(numbers: Numbers, name: str, reason: str) -> str:
    """Why a figure or table is missing; it is added to the list of missing values."""
    numbers.missing.append(f"{name}: {reason}")
    return escape(reason)
