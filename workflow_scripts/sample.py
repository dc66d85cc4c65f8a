"""Generate volumes from one trained run with a given number of network evaluations."""

from collections.abc import Sequence

import torch

from neuromf.meanflow.run import load_run, to_device
from neuromf.meanflow.sample import write_samples
from neuromf.vae import weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "nfe:int", "config:json", "out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run, decoder = to_device(load_run(args.model), device), weights.load(args.weights).to(device)
    write_samples(run, decoder, args.out, nfe=args.nfe, code=args.code, **args.config)


if __name__ == "__main__":
    main()
