"""Store the autoencoder of this study in float16, as the package ships it."""

from collections.abc import Sequence

from neuromf.vae.weights import pack
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "weights", "out")
    pack(weights=args.weights, out=args.out)


if __name__ == "__main__":
    main()
