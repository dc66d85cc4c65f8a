"""Write the table of the arms of an ablation."""

from collections.abc import Sequence

from neuromf.report.tables import arms
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "questions", "config:json", "out")
    arms.render(table=args.table, questions=args.questions, out=args.out, **args.config)


if __name__ == "__main__":
    main()
