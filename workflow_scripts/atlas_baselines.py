"""Score the classical models of the atlas in bits per focus."""

from collections.abc import Sequence

from neuromf.atlas.baselines import measure
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "config:json", "out")
    measure(studies=args.folder, out=args.out, **args.config)


if __name__ == "__main__":
    main()
