"""LaTeX to PDF, by tectonic or pdflatex, whichever is installed: the same text gives the same bytes."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from neuromf.core.files import atomic_write

ENGINES = ("pdflatex", "tectonic")
GET = (
    "no LaTeX is installed, so the paper stays a .tex file. Debian and Ubuntu: apt-get install --no-install-recommends "
    "texlive-latex-base texlive-latex-recommended lmodern; or put tectonic (https://tectonic-typesetting.github.io) on "
    "the path; then snakemake results/paper.pdf"
)
TIMEOUT_S = 300
LINES = 30  # of a failed run's log that are shown


def engine() -> str | None:
    """The first LaTeX on the path, None where there is none."""
    return next(filter(None, map(shutil.which, ENGINES)), None)


def typeset(text: Path, pdf: Path) -> None:
    """Make a PDF of a LaTeX file, whole or not at all. Files it includes are named from where it lies.

    Raises:
        SystemExit: If no LaTeX is installed, with how to get it.
        RuntimeError: If LaTeX fails, with the end of its log.
    """
    program = engine()
    if program is None:
        raise SystemExit(GET)
    with tempfile.TemporaryDirectory(prefix="neuromf-paper-") as name:
        for _ in range(1 if program.endswith("tectonic") else 3):  # references settle in the third pass
            _run(program, text, Path(name))
        made = Path(name) / f"{text.stem}.pdf"
        pdf.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(pdf) as part:
            shutil.copyfile(made, part)


def _run(program: str, text: Path, out: Path) -> None:
    """One pass, in the folder of the text, its output elsewhere; dates are those of the epoch."""
    if program.endswith("tectonic"):
        command = [program, "--outdir", str(out), text.name]
    else:
        command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"]
        command += [f"-output-directory={out}", text.name]
    fixed = os.environ | {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
    done = subprocess.run(
        command, cwd=text.parent, env=fixed, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
    )
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-LINES:])
        raise RuntimeError(f"{Path(program).name} could not typeset {text}; the end of its log:\n{end}")
