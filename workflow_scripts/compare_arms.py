"""Compute the statistics of all ablations: tests over seeds, effect sizes, Pareto front, ratios and cost."""

from collections.abc import Sequence

from neuromf.metrics.ablations import compare_arms
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "config:json", "out")
    compare_arms(tables=args.tables, out=args.out, **args.config)


if __name__ == "__main__":
    main()
