"""Reconstruct test volumes with the autoencoder and measure the error inside and outside the foreground."""

from collections.abc import Sequence

from neuromf.metrics.autoencoder import validate
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "weights", "config:json", "out")
    validate(qc=args.qc, weights=args.weights, out=args.out, **args.config)


if __name__ == "__main__":
    main()
