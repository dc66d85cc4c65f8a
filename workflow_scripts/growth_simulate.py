"""Simulate the longitudinal cohort of growing tumours: four contrasts and a segmentation per visit."""

from collections.abc import Sequence

from neuromf.simulation.tumour_cohort import simulate_cohort
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    try:
        simulate_cohort(out=args.out, **args.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
