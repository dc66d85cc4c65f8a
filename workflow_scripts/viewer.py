"""Bundle the viewer of the page from its lock file; an empty bundle says why where that cannot be."""

from collections.abc import Sequence

from neuromf.report.page import viewer
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "out", "licences")
    viewer.build(args.out, args.licences)


if __name__ == "__main__":
    main()
