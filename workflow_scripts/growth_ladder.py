"""Fit the ladder of growth models on simulated volumes, forecast test patients, and compare the models."""

from collections.abc import Sequence

from neuromf.growth.forecast_study import simulated_study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    simulated_study(out=args.out, **args.config)


if __name__ == "__main__":
    main()
