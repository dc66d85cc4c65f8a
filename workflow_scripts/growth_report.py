"""Write the page of the growth system."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.report.growth.page import write_growth_page
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "inputs:paths", "config:json", "out")
    try:
        write_growth_page(results=Results(Path("results"), "", args.inputs), out=args.out, about=args.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
