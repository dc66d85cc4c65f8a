"""Draw the figure of the privacy audit."""

from collections.abc import Sequence

from neuromf.figures import privacy
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "nearest", "metrics", "config:json", "out")
    privacy.render(nearest=args.nearest, metrics=args.metrics, out=args.out, **args.config)


if __name__ == "__main__":
    main()
