"""Encode image-mask pairs with every mask encoding, and compute the Dice of masks after encode-decode."""

from collections.abc import Sequence

from neuromf.lesions.pair_latents import encode_pairs
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "pairs", "weights", "config:json", "masks", "out")
    encode_pairs(pairs=args.pairs, weights=args.weights, out=args.out, table=args.masks, **args.config)


if __name__ == "__main__":
    main()
