"""Draw what the latents of the study look like, from their statistics and the validation of the autoencoder."""

import json
from collections.abc import Sequence

from neuromf.figures import style
from neuromf.figures.latents import latents
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "stats", "validation", "config:json", "out")
    fig = latents(*(json.loads(path.read_text()) for path in (args.stats, args.validation)))
    style.save(fig, args.out, args.config)


if __name__ == "__main__":
    main()
