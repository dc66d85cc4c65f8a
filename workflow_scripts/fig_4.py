"""Draw figure 4, distance against the number of network evaluations."""

from collections.abc import Sequence

from neuromf.figures import nfe_curve
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "config:json", "out")
    nfe_curve.render(table=args.table, out=args.out, **args.config)


if __name__ == "__main__":
    main()
