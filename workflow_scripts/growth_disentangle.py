"""Evaluate the disentanglement of an experiment's latent on test patients, and its traversals."""

from collections.abc import Sequence

from neuromf.growth.disentanglement_study import evaluate
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "latents", "out")
    evaluate(folder=args.folder, latents=args.latents, out=args.out)


if __name__ == "__main__":
    main()
