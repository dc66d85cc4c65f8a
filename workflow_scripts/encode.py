"""Posterior moments of one shard of the volumes, and of their left-right mirrors."""

from collections.abc import Sequence

import torch

from neuromf import latents, vae
from neuromf.cohort import read_table
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "weights", "config:json", "out")
    table = read_table(args.folder / "qc.tsv")
    table = table[table["status"] == "accepted"]
    shard = latents.encode(vae.load(args.weights), table["volume"].tolist(), **args.config)
    torch.save({"scans": table["scan"].tolist(), **shard}, args.out)


if __name__ == "__main__":
    main()
