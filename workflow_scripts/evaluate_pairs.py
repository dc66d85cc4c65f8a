"""Evaluate the pairs of a fine-tuned run, and real validation and test pairs, against training pairs."""

from collections.abc import Sequence

from neuromf.lesions.evaluation import evaluate_pairs
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "samples", "pairs", "weights", "arm:str", "config:json", "metrics", "lesions")
    files = {name: getattr(args, name) for name in ("samples", "pairs", "weights", "metrics", "lesions")}
    evaluate_pairs(arm=args.arm, **files, **args.config)


if __name__ == "__main__":
    main()
