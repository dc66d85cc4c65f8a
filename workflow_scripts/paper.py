"""Write the draft of the paper as LaTeX, every number looked up in the results, and the list of all that was."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from neuromf.core.files import atomic_write
from neuromf.report.paper import latex
from neuromf.report.paper.document import document
from neuromf.report.paper.numbers import Numbers
from neuromf.report.results import Results
from workflow_scripts._cli import arguments

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "results", "config:json", "out", "numbers")
    cfg = args.config
    numbers = Numbers(Results(args.results, cfg["run"]), cfg["values"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(document(numbers, cfg, args.out.parent), args.out)
    about = {"study": cfg["study"], "run": cfg["run"], "told": numbers.told, "missing": sorted(set(numbers.missing))}
    write(json.dumps(about, indent=1, default=float) + "\n", args.numbers)
    if numbers.missing:
        logger.warning("missing in the paper: %s", "; ".join(about["missing"]))
    if latex.engine() is None:
        logger.warning(latex.GET)


def write(text: str, path: Path) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
