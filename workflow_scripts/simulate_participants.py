"""Simulate one shard of the embedded cohort: scans as NIfTI and their participants table."""

from collections.abc import Sequence

from neuromf.simulation.brains import simulate_cohort
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "shard:int", "config:json", "out")
    simulate_cohort(out=args.out, shard=args.shard, **args.config)


if __name__ == "__main__":
    main()
