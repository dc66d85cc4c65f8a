"""Merge the quality control tables of all shards: accepted scans, excluded scans and the reasons."""

from collections.abc import Sequence

from neuromf.data.participants import merge_qc, write_table
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "shards:paths", "out")
    try:
        table = merge_qc(args.shards)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    write_table(table, args.out)


if __name__ == "__main__":
    main()
