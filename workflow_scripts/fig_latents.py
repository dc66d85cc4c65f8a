"""Draw the statistics of the latents."""

from collections.abc import Sequence

from neuromf.figures import latents
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "stats", "validation", "config:json", "out")
    latents.render(stats=args.stats, validation=args.validation, out=args.out, **args.config)


if __name__ == "__main__":
    main()
