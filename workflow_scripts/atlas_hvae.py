"""Train the hierarchical VAE and the flat VAE that it is compared with."""

from collections.abc import Sequence

from neuromf.atlas.hierarchical_training import train_hierarchical
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "maps", "schema", "config:json", "out")
    train_hierarchical(
        studies=args.studies, maps=args.maps, schema=args.schema, out=args.out, code=args.code, **args.config
    )


if __name__ == "__main__":
    main()
