"""Analyse the latents of the atlas: clusters, drift and forecasts, correlations between models."""

from collections.abc import Sequence

from neuromf.atlas.analyses import write_analyses
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "maps", "latents:paths", "config:json", "out")
    write_analyses(args.studies, args.maps, args.latents, args.out, **args.config)


if __name__ == "__main__":
    main()
