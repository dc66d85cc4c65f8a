"""Write the captions of all figures and tables, for the page and for Snakemake's own report."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.report.captions.render import write
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "inputs:paths", "config:json", "out")
    write(Results(Path("results"), args.config["run"], args.inputs), args.out)


if __name__ == "__main__":
    main()
