"""Compute statistics of the training latents, SSIM of decoded test latents, and errors of transforming latents."""

from collections.abc import Sequence

from neuromf.metrics.autoencoder import latent_statistics
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents:paths", "qc", "weights", "config:json", "out")
    latent_statistics(latents=args.latents, qc=args.qc, weights=args.weights, out=args.out, **args.config)


if __name__ == "__main__":
    main()
