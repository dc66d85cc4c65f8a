"""How a mask becomes part of a latent: decided by the Dice of masks there and back."""

import json
import logging
from collections.abc import Sequence

import pandas as pd

from neuromf.lesions.pair_latents import strategy
from workflow_scripts._cli import arguments

logger = logging.getLogger("neuromf.strategy")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "masks", "config:json", "out")
    decision = strategy(pd.read_csv(args.masks), **args.config)
    args.out.write_text(json.dumps(decision, indent=1))
    logger.info("masks go as %s: Dice there and back %s", decision["strategy"], decision["dice"])


if __name__ == "__main__":
    main()
