"""Draw figure F1 of the growth system: patients, visits and contrasts."""

from collections.abc import Sequence

from neuromf.figures import growing_tumours
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "index", "config:json", "out")
    growing_tumours.render(args.index, args.out, **args.config)


if __name__ == "__main__":
    main()
