"""Posterior moments of one shard of the volumes; training scans also mirrored and augmented."""

import hashlib
from collections.abc import Sequence

import torch

from neuromf.data.participants import read_table
from neuromf.vae import latents
from neuromf.vae.weights import load
from neuromf.workflow.digests import as_json, code_digest
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "weights", "config:json", "out")
    table = read_table(args.folder / "qc.tsv")
    weights = hashlib.sha256(args.weights.read_bytes()).hexdigest()
    made_by = as_json(weights=weights, code=code_digest("workflow_scripts.encode"))
    net = load(args.weights).to("cuda" if torch.cuda.is_available() else "cpu")
    accepted = table[table["status"] == "accepted"]
    latents.encode_shard(net, accepted, args.out, made_by=made_by, **args.config)


if __name__ == "__main__":
    main()
