"""Join the metrics of the reference and of all runs to one table, without metrics that fail on the control sets."""

from collections.abc import Sequence

from neuromf.metrics.evaluation import join_tables
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "out")
    join_tables(tables=args.tables, out=args.out)


if __name__ == "__main__":
    main()
