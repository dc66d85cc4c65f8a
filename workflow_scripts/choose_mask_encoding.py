"""Choose the mask encoding of the study by the Dice of masks after encode-decode."""

from collections.abc import Sequence

from neuromf.lesions.mask_encoding import choose_mask_encoding
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "masks", "config:json", "out")
    choose_mask_encoding(table=args.masks, out=args.out, **args.config)


if __name__ == "__main__":
    main()
