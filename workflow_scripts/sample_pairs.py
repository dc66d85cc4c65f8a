"""Generate image-mask pairs with a fine-tuned run."""

from collections.abc import Sequence

from neuromf.lesions.sample import sample_pairs
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "adapter", "gaussian", "weights", "pairs", "config:json", "out")
    files = {"run": args.model, "adapter": args.adapter.parent, "weights": args.weights, "pairs": args.pairs}
    sample_pairs(**files, out=args.out, **args.config)


if __name__ == "__main__":
    main()
