"""Make one shard of the embedded cohort: scans as NIfTI and the rows of their participants table."""

from collections.abc import Sequence

from neuromf.data.participants import write_table
from neuromf.simulation.brains import write_people
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "shard:int", "config:json", "out")
    settings = dict(args.config)
    numbers = list(range(settings.pop("n_participants")))[args.shard :: settings.pop("n_shards")]
    write_table(write_people(numbers, args.out, **settings), args.out / "participants.tsv")


if __name__ == "__main__":
    main()
