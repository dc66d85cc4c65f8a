"""Compute the activation maps of all studies with one kernel."""

from collections.abc import Sequence

from neuromf.atlas.preparation import write_maps
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "config:json", "out")
    write_maps(args.folder, args.out, **args.config)


if __name__ == "__main__":
    main()
