"""Train an ensemble of aleatoric decoders: snapshots of one training, or independent seeds."""

from collections.abc import Sequence

from neuromf.atlas.ensemble_training import train_ensemble
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "studies", "maps", "checkpoint", "config:json", "out")
    train_ensemble(studies=args.studies, maps=args.maps, checkpoint=args.checkpoint, out=args.out, code=args.code,
                   **args.config)  # fmt: skip


if __name__ == "__main__":
    main()
