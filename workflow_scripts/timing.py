"""Time the generation of a volume: the trained network and the decoder apart, warm, at batch 1 and the best batch."""

from collections.abc import Sequence

import pandas as pd
import torch

from neuromf.benchmarks import timing
from neuromf.meanflow.run import load_run, to_device
from neuromf.vae import weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "run:str", "config:json", "out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run, decoder = to_device(load_run(args.model), device), weights.load(args.weights).to(device)
    rows = timing.study(run, decoder, **args.config)
    pd.DataFrame(rows).assign(run=args.run).to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
