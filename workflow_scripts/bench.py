"""Measure what a training step costs, for every way to compute the derivative."""

from collections.abc import Sequence

import pandas as pd
import torch

from neuromf.benchmarks import training_step
from neuromf.core import hardware
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = training_step.study(device=device, **args.config)
    pd.DataFrame(rows).assign(device=hardware.device_name()).to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
