"""Draw figure 1, the overview of the method."""

from collections.abc import Sequence

from neuromf.figures import overview
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "latents:paths", "stats", "samples", "config:json", "out")
    overview.render(
        qc=args.qc, latents=args.latents, stats=args.stats, samples=args.samples, out=args.out, **args.config
    )


if __name__ == "__main__":
    main()
