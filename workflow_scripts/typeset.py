"""Typeset the paper with pdflatex or tectonic."""

from collections.abc import Sequence

from neuromf.report.paper import latex
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "text", "out")
    latex.typeset(args.text, args.out)


if __name__ == "__main__":
    main()
