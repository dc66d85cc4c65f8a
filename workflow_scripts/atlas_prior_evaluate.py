"""Compare samples from N(0, I) with samples from the one-step prior: overlap, bits per focus, sampling paths."""

from collections.abc import Sequence

from neuromf.atlas.prior_evaluation import evaluate_prior
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "checkpoint", "prior", "config:json", "out")
    try:
        evaluate_prior(studies=args.studies, checkpoint=args.checkpoint, prior=args.prior, out=args.out, **args.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
