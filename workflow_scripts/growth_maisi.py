"""Encode the subjects of a run with the frozen MAISI autoencoder, and evaluate the disentanglement of its latent."""

from collections.abc import Sequence

from neuromf.growth.frozen_encoder import export_frozen
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "latents", "out")
    export_frozen(args.folder, args.latents, args.out)


if __name__ == "__main__":
    main()
