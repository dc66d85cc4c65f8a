"""Benchmark a training step whose latents are memory-mapped from a temporary store beside the output."""

from collections.abc import Sequence

import pandas as pd

from neuromf.benchmarks.memory_mapped import study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    pd.DataFrame(study(args.out.parent, **args.config)).to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
