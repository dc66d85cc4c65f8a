"""Compare a small segmentation network trained with and without generated pairs."""

from collections.abc import Sequence

from neuromf.lesions.segmentation import compare
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "samples", "pairs", "arm:str", "config:json", "out")
    try:
        compare(samples=args.samples, pairs=args.pairs, arm=args.arm, out=args.out, **args.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
