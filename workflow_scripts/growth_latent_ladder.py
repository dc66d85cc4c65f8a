"""Fit the ladder of growth models on states from latents of images, and forecast latents of test patients."""

from collections.abc import Sequence

from neuromf.growth.latent_study import latent_study
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents", "trajectories", "config:json", "out")
    latent_study(latents=args.latents, trajectories=args.trajectories, out=args.out, **args.config)


if __name__ == "__main__":
    main()
