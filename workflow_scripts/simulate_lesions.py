"""Simulate participants with focal cortical dysplasia: FLAIR volumes and lesion masks as a BIDS folder."""

from collections.abc import Sequence

from neuromf.simulation.dysplasia import simulate_cohort
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    simulate_cohort(out=args.out, **args.config)


if __name__ == "__main__":
    main()
