"""LaTeX to PDF with pdflatex or tectonic. The same text gives the same bytes."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from neuromf.core.files import atomic_write

ENGINES = ("pdflatex", "tectonic")
INSTALL = (
    "LaTeX is not installed, so the paper stays a .tex file. Debian and Ubuntu: apt-get install "
    "--no-install-recommends texlive-latex-base texlive-latex-recommended lmodern; or put tectonic "
    "(https://tectonic-typesetting.github.io) on the path; then snakemake results/paper.pdf"
)
TIMEOUT_S = 300
LINES = 30  # of the log of a failed run in the error message


def engine() -> str | None:
    """Path of pdflatex or tectonic, None if neither is installed."""
    return next(filter(None, map(shutil.which, ENGINES)), None)


def typeset(text: Path, pdf: Path) -> None:
    """Write the PDF of a LaTeX file, which includes files relative to its own folder.

    Raises:
        SystemExit: If LaTeX is not installed.
        RuntimeError: If LaTeX fails; the message contains the end of its log.
    """
    program = engine()
    if program is None:
        raise SystemExit(INSTALL)
    with tempfile.TemporaryDirectory(prefix="neuromf-paper-") as name:
        for _ in range(1 if program.endswith("tectonic") else 3):  # references are final after the third pass
            _run(program, text, Path(name))
        pdf.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(pdf) as part:
            shutil.copyfile(Path(name) / f"{text.stem}.pdf", part)


def _run(program: str, text: Path, out: Path) -> None:
    """One pass. Fixed dates make the PDF reproducible."""
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
