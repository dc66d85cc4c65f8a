"""Draw figure 8, volumes of brain regions."""

from collections.abc import Sequence

from neuromf.figures import regions
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "volumes", "config:json", "out")
    regions.render(volumes=args.volumes, out=args.out, **args.config)


if __name__ == "__main__":
    main()
