"""Joint latents of images and masks, by mask strategy, and the Dice of masks there and back."""

from collections.abc import Sequence

import torch

from neuromf.core.files import atomic_write
from neuromf.data.participants import read_table
from neuromf.lesions.pair_latents import encode_pairs
from neuromf.vae import weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "pairs", "weights", "config:json", "masks", "out")
    net = weights.load(args.weights).to("cuda" if torch.cuda.is_available() else "cpu")
    table = encode_pairs(net, read_table(args.pairs), args.out, **args.config)
    with atomic_write(args.masks) as part:
        table.to_csv(part, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
