"""Draw figure 6, x-prediction against u-prediction."""

from collections.abc import Sequence

from neuromf.figures import prediction
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "samples:paths", "config:json", "out")
    prediction.render(table=args.table, samples=args.samples, out=args.out, **args.config)


if __name__ == "__main__":
    main()
