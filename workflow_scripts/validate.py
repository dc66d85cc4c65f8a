"""Round trip of held-out volumes through the autoencoder: how much of a head survives it."""

import json
from collections.abc import Sequence

import numpy as np

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import head, of_split
from neuromf.metrics.images import reconstruction
from neuromf.vae import weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "weights", "config:json", "out")
    files = of_split(read_table(args.qc), "test")[: args.config["n"]]
    net, volumes = weights.load(args.weights), read_volumes(files)
    inside = np.stack([head(volume.numpy()) for volume in volumes[:, 0].float()])
    report = reconstruction.validate(net.encode, net.decode, volumes, inside, lpips=args.config["lpips"])
    args.out.write_text(json.dumps({**report, **weights.count_parameters(net)}, indent=1))


if __name__ == "__main__":
    main()
