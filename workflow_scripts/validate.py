"""Round trip of held-out volumes through the autoencoder: how much of a head survives it."""

import json
from collections.abc import Sequence

from neuromf import vae
from neuromf.cohort import read_table
from neuromf.volumes import of_split, read_volumes
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "weights", "config:json", "out")
    files = of_split(read_table(args.qc), "test")[: args.config["n"]]
    report = vae.validate(vae.load(args.weights), read_volumes(files).float())
    args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
