"""Evaluate reconstruction and generation of the point model, beside closed forms."""

from collections.abc import Sequence

from neuromf.atlas.point_evaluation import evaluate_points
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "run", "studies", "config:json", "out")
    evaluate_points(args.run, args.studies, args.out, **args.config)


if __name__ == "__main__":
    main()
