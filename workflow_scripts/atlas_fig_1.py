"""Draw figure F1 of the atlas: foci by space before and after cleaning."""

from collections.abc import Sequence

from neuromf.figures import atlas_foci
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "config:json", "out")
    atlas_foci.render(args.folder, args.out, **args.config)


if __name__ == "__main__":
    main()
