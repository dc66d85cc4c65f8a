"""Refuse a release of the atlas unless all of it is of the full data, and list its files with their digests."""

from collections.abc import Sequence

from neuromf.atlas.guards import write_release
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "inputs:paths", "out")
    try:
        write_release(args.folder, args.inputs, args.out)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
