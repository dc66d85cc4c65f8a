"""Join the metrics of all runs into one tidy table."""

from collections.abc import Sequence

import pandas as pd

from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "runs:paths", "out")
    table = pd.concat([pd.read_csv(path) for path in args.runs])
    names = ["run", "nfe", "metric", "features", "n", "value", "low", "high"]
    table[names].to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
