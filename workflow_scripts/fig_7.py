"""Draw figure 7, real and generated lesions."""

from collections.abc import Sequence

from neuromf.figures import lesions
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "pairs", "samples", "lesions", "metrics", "config:json", "out")
    lesions.render(
        pairs=args.pairs, samples=args.samples, lesions=args.lesions, metrics=args.metrics, out=args.out, **args.config
    )


if __name__ == "__main__":
    main()
