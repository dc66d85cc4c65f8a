"""Write table 1, the main comparison."""

from collections.abc import Sequence

from neuromf.report.tables import comparison
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "metrics", "timing", "config:json", "out")
    comparison.render(metrics=args.metrics, timing=args.timing, out=args.out, **args.config)


if __name__ == "__main__":
    main()
