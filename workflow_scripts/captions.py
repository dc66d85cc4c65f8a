"""Write the captions of all figures and tables that there are, for the page and for Snakemake's report."""

from collections.abc import Sequence

from neuromf.report.captions.render import write
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "results", "config:json", "out")
    write(Results(args.results, **args.config), args.out)


if __name__ == "__main__":
    main()
