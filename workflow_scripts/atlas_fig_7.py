"""Draw figure F7 of the atlas: decoded maps of the years, and drift without bias."""

from collections.abc import Sequence

from neuromf.figures import atlas_time
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "checkpoint", "result", "config:json", "out")
    atlas_time.render(args.studies, args.checkpoint, args.result, args.out, **args.config)


if __name__ == "__main__":
    main()
