"""Draw the headline plate: forecasts of the volume, and decoded future images beside the truth."""

from collections.abc import Sequence

from neuromf.figures import growth_future_image
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "table", "examples", "verdict", "config:json", "out")
    paths = {name: getattr(args, name) for name in ("table", "examples", "verdict", "out")}
    growth_future_image.render_headline(folders=args.tables, **paths, **args.config)


if __name__ == "__main__":
    main()
