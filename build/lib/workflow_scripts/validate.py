"""Round trip of held-out volumes through the autoencoder: how much of a head survives it."""

import json
from collections.abc import Sequence

import numpy as np

from neuromf import vae
from neuromf.cohort import read_table
from neuromf.metrics import roundtrip
from neuromf.volumes import head, of_split, read_volumes
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "weights", "config:json", "out")
    files = of_split(read_table(args.qc), "test")[: args.config["n"]]
    net, volumes = vae.load(args.weights), read_volumes(files)
    inside = np.stack([head(volume.numpy()) for volume in volumes[:, 0].float()])
    report = roundtrip.validate(net.encode, net.decode, volumes, inside, lpips=args.config["lpips"])
    args.out.write_text(json.dumps({**report, **vae.size(net)}, indent=1))


if __name__ == "__main__":
    main()
