"""Measure what a training step costs whose latents stay on disk, from a store that is made here and removed again."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from neuromf.benchmarks import memory_mapped
from neuromf.core import hardware
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
        rows = memory_mapped.study(Path(folder), device=device, **args.config)
    pd.DataFrame(rows).assign(device=hardware.device_name()).to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
