"""List subjects with four contrasts, exclude those that cannot be used, and split the others by patient."""

from collections.abc import Sequence

from neuromf.data.multimodal_loaders import prepare_index
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    try:
        prepare_index(args.out, **args.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
