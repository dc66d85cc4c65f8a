"""Evaluate the calibration of an ensemble on validation and test studies."""

from collections.abc import Sequence

from neuromf.atlas.uncertainty import evaluate_calibration
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "run", "checkpoint", "studies", "config:json", "out")
    evaluate_calibration(
        run=args.run.parent, checkpoint=args.checkpoint, studies=args.studies, out=args.out, **args.config
    )


if __name__ == "__main__":
    main()
