"""Train the volume model of the atlas from a preset. By hand: --config "$(cat results/atlas/runs/cvae/config.json)"."""

from collections.abc import Sequence

from neuromf.atlas.train import train
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "schema", "config:json", "out")
    try:
        train(studies=args.studies, schema=args.schema, out=args.out, code=args.code, **args.config)
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
