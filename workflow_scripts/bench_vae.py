"""Measure what encoding and decoding cost, MONAI's autoencoder beside ours, on the CPU."""

from collections.abc import Sequence

import pandas as pd
import torch

from neuromf.benchmarks import vae
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    rows = vae.study(**args.config)
    device = f"cpu, {torch.get_num_threads()} threads"
    pd.DataFrame(rows).assign(device=device).to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
