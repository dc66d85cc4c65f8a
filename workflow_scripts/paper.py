"""Write the draft of the paper as LaTeX, with the source of every number."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.report.paper.document import write_paper
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "inputs:paths", "config:json", "out", "numbers")
    results = Results(Path("results"), args.config.pop("run"), args.inputs)
    write_paper(results=results, out=args.out, numbers=args.numbers, **args.config)


if __name__ == "__main__":
    main()
