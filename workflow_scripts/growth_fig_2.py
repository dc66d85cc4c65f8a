"""Merge the rows of the collapse study, and draw figure F2."""

from collections.abc import Sequence

from neuromf.figures import growth_collapse
from neuromf.growth.collapse_study import merge_rows
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "table", "config:json", "out")
    merge_rows(args.tables, args.table)
    growth_collapse.render(table=args.table, out=args.out, **args.config)


if __name__ == "__main__":
    main()
