"""Compare the leakage of method fields into the latents of runs without and with adversaries."""

from collections.abc import Sequence

from neuromf.atlas.evaluation import compare_leakage
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "checkpoint", "adversarial", "config:json", "out")
    compare_leakage(studies=args.studies, before=args.checkpoint, after=args.adversarial, out=args.out, **args.config)


if __name__ == "__main__":
    main()
