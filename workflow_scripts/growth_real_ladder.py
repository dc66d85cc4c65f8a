"""Fit the ladder of growth models on real lesion volumes, in folds by patient, and compare the models."""

from collections.abc import Sequence

from neuromf.growth.forecast_study import real_study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "config:json", "out")
    real_study(table=args.table, out=args.out, **args.config)


if __name__ == "__main__":
    main()
