"""Take the stored autoencoder of the study, or train it on the training participants."""

from collections.abc import Sequence

from neuromf.vae.train import train
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "config:json", "out")
    train(qc=args.qc, out=args.out, code=args.code, **args.config)


if __name__ == "__main__":
    main()
