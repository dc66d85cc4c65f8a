"""Evaluate a trained model of the atlas on test studies and external maps."""

from collections.abc import Sequence

from neuromf.atlas.evaluation import evaluate_run
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "checkpoint", "config:json", "out")
    evaluate_run(studies=args.folder, checkpoint=args.checkpoint, out=args.out, **args.config)


if __name__ == "__main__":
    main()
