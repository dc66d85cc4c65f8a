"""Store the autoencoder of this study in half precision, as the package ships it."""

from collections.abc import Sequence

from neuromf.vae import weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "weights", "out")
    weights.save_weights(weights.load(args.weights), args.out, half=True)


if __name__ == "__main__":
    main()
