"""Draw figure 5, the exponent of the loss."""

from collections.abc import Sequence

from neuromf.figures import loss_exponent
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "questions", "config:json", "out")
    loss_exponent.render(table=args.table, questions=args.questions, out=args.out, **args.config)


if __name__ == "__main__":
    main()
