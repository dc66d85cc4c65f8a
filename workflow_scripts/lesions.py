"""Make people with focal cortical dysplasia: FLAIR and true masks as a BIDS folder."""

from collections.abc import Sequence

from neuromf.simulation.dysplasia import write_people
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    settings = dict(args.config)
    write_people(list(range(settings.pop("n_participants"))), args.out, **settings)


if __name__ == "__main__":
    main()
