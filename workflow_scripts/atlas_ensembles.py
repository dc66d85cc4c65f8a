"""Compare ensembles: snapshots beside independent seeds."""

from collections.abc import Sequence

from neuromf.atlas.uncertainty import write_comparison
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "out")
    write_comparison(args.tables, args.out)


if __name__ == "__main__":
    main()
