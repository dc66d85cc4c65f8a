"""Fit the schema of the metadata vector to the training studies."""

from collections.abc import Sequence

from neuromf.atlas.preparation import write_schema
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "out")
    write_schema(args.folder, args.out)


if __name__ == "__main__":
    main()
