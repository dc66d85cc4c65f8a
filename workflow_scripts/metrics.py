"""Join the metrics of all runs and of the controls into one tidy table: of those that could order the controls."""

from collections.abc import Sequence

from neuromf.metrics import table
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "out")
    table.valid_rows(table.read(args.tables))[["run", *table.COLUMNS]].to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
