"""Join the metrics of all arms of one ablation to one table."""

from collections.abc import Sequence

from neuromf.metrics.ablations import join_arms
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "runs:paths", "reference", "config:json", "out")
    join_arms(runs=args.runs, reference=args.reference, out=args.out, **args.config)


if __name__ == "__main__":
    main()
