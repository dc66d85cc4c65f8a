"""Draw figure F2 of the atlas: the ladder in bits per focus."""

from collections.abc import Sequence

from neuromf.figures import atlas_ladder
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "results", "config:json", "out")
    atlas_ladder.render(results=args.results, out=args.out, **args.config)


if __name__ == "__main__":
    main()
