"""Train the point model of the atlas."""

from collections.abc import Sequence

from neuromf.atlas.point_training import train_points
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "schema", "config:json", "out")
    try:
        train_points(studies=args.studies, schema=args.schema, out=args.out, code=args.code, **args.config)
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
