"""Bundle the volume viewer of the report page from its lock file."""

from collections.abc import Sequence

from neuromf.report.page import viewer
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "out", "licences")
    viewer.build(args.out, args.licences)


if __name__ == "__main__":
    main()
