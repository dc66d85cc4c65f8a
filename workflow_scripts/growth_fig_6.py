"""Draw figure F6: the ladder of growth models on real volumes."""

from collections.abc import Sequence

from neuromf.figures import growth_ladder
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "config:json", "out")
    growth_ladder.render(folder=args.folder, out=args.out, **args.config)


if __name__ == "__main__":
    main()
