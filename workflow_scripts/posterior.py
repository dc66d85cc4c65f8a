"""Posterior error of test participants, of the network of a run and of its prior."""

from collections.abc import Sequence

from neuromf.meanflow.posterior_error import evaluate_posterior
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "latents:paths", "qc", "config:json", "out")
    evaluate_posterior(model=args.model, latents=args.latents, qc=args.qc, out=args.out, **args.config)


if __name__ == "__main__":
    main()
