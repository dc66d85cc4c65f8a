"""Write the model card of the growth system."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.report.growth.card import write_card
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "inputs:paths", "page", "config:json", "out")
    write_card(results=Results(Path("results"), "", args.inputs), page=args.page, out=args.out, **args.config)


if __name__ == "__main__":
    main()
