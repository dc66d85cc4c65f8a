"""Draw figure 3, real and generated brains."""

from collections.abc import Sequence

from neuromf.figures import samples
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "samples:paths", "pairs", "config:json", "out")
    samples.render(qc=args.qc, samples=args.samples, pairs=args.pairs, out=args.out, **args.config)


if __name__ == "__main__":
    main()
