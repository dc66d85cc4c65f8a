"""Encode the subjects of an experiment into a store of latents."""

from collections.abc import Sequence

from neuromf.growth.latents import export_latents
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "folder", "trajectories:optional", "out")
    export_latents(args.folder, args.out, trajectories=args.trajectories)


if __name__ == "__main__":
    main()
