"""Draw volumes from one trained run with a given number of network evaluations: latents and NIfTI."""

from collections.abc import Sequence

import torch

from neuromf.meanflow import sample
from neuromf.meanflow.run import load_run, to_device
from neuromf.vae import weights
from neuromf.workflow.digests import code_digest
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "steps:int", "config:json", "out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run, decoder = to_device(load_run(args.model), device), weights.load(args.weights).to(device)
    code = code_digest("workflow_scripts.sample")
    sample.write_samples(run, decoder, args.out, steps=args.steps, code=code, **args.config)


if __name__ == "__main__":
    main()
