"""Write the latents of all studies by the point model."""

from collections.abc import Sequence

from neuromf.atlas.analyses import write_point_latents
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "run", "studies", "out")
    write_point_latents(args.run, args.studies, args.out)


if __name__ == "__main__":
    main()
