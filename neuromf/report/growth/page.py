"""The growth page alone, for a study whose other systems have not run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuromf.core.files import write_text
from neuromf.report.growth.section import section
from neuromf.report.page.build import TEMPLATES, environment
from neuromf.report.results import Results


def write_growth_page(*, results: Results, out: Path, about: Mapping[str, Any]) -> None:
    """Write the section on growth as a self-contained HTML page.

    Raises:
        ValueError: If no result of the growth system exists.
    """
    content = section(results, about)
    if content is None:
        raise ValueError(f"no result of the growth system in {results.root / 'growth'}: run snakemake growth")
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    page = environment().get_template("growth_page.html.j2")
    write_text(out, page.render(study=about["study"], growth=content, style=style, script=script))
