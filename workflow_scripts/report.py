"""Write the report page of the study."""

from collections.abc import Sequence
from pathlib import Path

from neuromf.report.page.build import write_page
from neuromf.report.results import Results
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "inputs:paths", "look", "viewer", "licences", "config:json", "out")
    results = Results(Path("results"), args.config.pop("run"), args.inputs)
    write_page(
        results=results, preview=args.look, viewer=args.viewer, licences=args.licences, out=args.out, **args.config
    )


if __name__ == "__main__":
    main()
