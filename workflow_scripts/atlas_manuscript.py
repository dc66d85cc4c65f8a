"""Write the manuscript of the atlas as LaTeX, and the source of every number in it."""

from collections.abc import Sequence

from neuromf.report.atlas.manuscript import write_manuscript
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "inputs:paths", "figures:paths", "out", "numbers")
    try:
        write_manuscript(
            inputs=args.inputs, figures=args.figures, studies=args.studies, out=args.out, numbers=args.numbers
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
