"""Benchmark a training step of the growth system: module against plain loop, bfloat16 against float32."""

from collections.abc import Sequence

import pandas as pd

from neuromf.benchmarks.growth_step import study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    pd.DataFrame(study(**args.config)).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
