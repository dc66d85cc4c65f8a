"""Draw the contact sheet of all scans, and write their outlier scores."""

from collections.abc import Sequence

from neuromf.figures import contact_sheet
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "table", "config:json", "out")
    contact_sheet.render(qc=args.qc, table=args.table, out=args.out, **args.config)


if __name__ == "__main__":
    main()
