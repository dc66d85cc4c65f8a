"""Benchmark a training step for every way to compute the derivative."""

from collections.abc import Sequence

import pandas as pd

from neuromf.benchmarks.training_step import study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    pd.DataFrame(study(**args.config)).to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
