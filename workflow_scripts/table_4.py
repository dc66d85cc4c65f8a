"""Write table 4, lesions by arm."""

from collections.abc import Sequence

from neuromf.report.tables import lesions
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "metrics:paths", "cards:paths", "config:json", "out")
    lesions.render(metrics=args.metrics, cards=args.cards, out=args.out, **args.config)


if __name__ == "__main__":
    main()
