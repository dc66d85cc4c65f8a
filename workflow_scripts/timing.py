"""Time the generation of a volume: network and decoder separately, at batch 1 and at the best batch."""

from collections.abc import Sequence

from neuromf.benchmarks.timing import measure
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "run:str", "config:json", "out")
    measure(model=args.model, weights=args.weights, run=args.run, out=args.out, **args.config)


if __name__ == "__main__":
    main()
