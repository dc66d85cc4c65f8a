"""Clean and split the studies of the atlas: duplicates, spaces, foci outside the brain."""

from collections.abc import Sequence

from neuromf.atlas.preparation import prepare_studies
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    try:
        prepare_studies(args.out, **args.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
