"""Manuscript of the atlas as LaTeX: every number is looked up in the results when it is printed.

numbers.json lists every printed number with its file and place, and what is missing. A number that was not measured is
printed as such; no number stands in the template.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuromf.atlas import guards
from neuromf.core.files import write_json, write_text
from neuromf.report import templating
from neuromf.report.tables.style import escape

TEMPLATES = Path(__file__).with_name("templates")
ABSENT = r"\notmeasured{}"
N_FIGURES = 8
NUMBERED = {"points": "fig_5"}  # figures whose file has another name
DIGITS = 3


@dataclass
class Numbers:
    """Lookups in result files.

    Arguments:
        files: JSON files by name: stem of the file, or name of its folder and stem.
        printed: Numbers that were printed: text, file, place and value.
        missing: What was not measured.
    """

    files: dict[str, Path]
    printed: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def find(self, file: str, place: str) -> Any:  # noqa: ANN401  # JSON
        """Value at a place such as "bits.conditional.best", None if it is missing."""
        if file not in self.files:
            return None
        value: Any = json.loads(self.files[file].read_text(encoding="utf-8"))
        for key in place.split("."):
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return None
        return value

    def value(self, file: str, place: str, digits: int = DIGITS) -> str:
        """One value as text."""
        found = self.find(file, place)
        if found is None:
            return self.absent(file, place)
        text = f"{found:.{digits}f}" if isinstance(found, float) else escape(str(found))
        return self.record(text, file, place, found)

    def interval(self, file: str, place: str, digits: int = DIGITS) -> str:
        """A value with its 95 % interval, from a row with value, low and high."""
        row = self.find(file, place)
        if not isinstance(row, dict) or not {"value", "low", "high"} <= row.keys():
            return self.absent(file, place)
        text = f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        return self.record(text, file, place, row)

    def record(self, text: str, file: str, place: str, value: Any) -> str:  # noqa: ANN401  # JSON
        """The text, after its source was recorded."""
        self.printed.append({"text": text, "file": str(self.files[file]), "place": place, "value": value})
        return text

    def absent(self, file: str, place: str) -> str:
        """Text of a value that was not measured; it is listed."""
        self.missing.append(f"{file}: {place}")
        return ABSENT


def json_files(paths: Sequence[str | Path]) -> list[Path]:
    """JSON files of paths, those inside folders included."""
    return [file for path in map(Path, paths) for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]


def write_manuscript(
    *, inputs: Sequence[str | Path], figures: Sequence[str | Path], studies: str | Path, out: str | Path,
    numbers: str | Path,
) -> None:  # fmt: skip
    """Write the LaTeX file and the list of its numbers.

    Arguments:
        inputs: JSON files of results, or folders of them; a scale that a file states must be that of the studies.
        figures: PDF files, named fig_1 to fig_8, or as in NUMBERED; the others are named as missing.
        studies: Folder of studies.
        out: LaTeX file.
        numbers: JSON file with the source of every number.

    Raises:
        ValueError: If scales are mixed.
    """
    out = Path(out)
    files = {"scale": Path(studies) / "scale.json"} | {path.stem: path for path in json_files(inputs)}
    scales = {name: json.loads(path.read_text(encoding="utf-8")).get("scale") for name, path in files.items()}
    scale = guards.common_scale({name: value for name, value in scales.items() if isinstance(value, str)})
    guards.require_stage(scale, guards.LAST_STAGE, str(studies))
    lookup = Numbers(files)
    drawn = {NUMBERED.get(Path(path).stem, Path(path).stem): os.path.relpath(path, out.parent) for path in figures}
    for k in range(1, N_FIGURES + 1):
        if f"fig_{k}" not in drawn:
            lookup.missing.append(f"figure F{k}")
    template = templating.environment(
        TEMPLATES, variable_start_string="<<", variable_end_string=">>", block_start_string="<%", block_end_string="%>",
        comment_start_string="<#", comment_end_string="#>",
    ).get_template("manuscript.tex.j2")  # fmt: skip
    statement = guards.statement(scale)
    text = template.render(q=lookup, figures=drawn, statement=escape(statement), n_figures=N_FIGURES)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    write_json(numbers, {"scale": scale, "statement": statement, "printed": lookup.printed, "missing": lookup.missing})
