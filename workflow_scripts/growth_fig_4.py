"""Draw figure F4: forecasts of simulated volumes, and scores of the ladder."""

from collections.abc import Sequence

from neuromf.figures import growth_forecast
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "config:json", "out")
    growth_forecast.render(folders=args.tables, out=args.out, **args.config)


if __name__ == "__main__":
    main()
