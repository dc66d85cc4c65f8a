"""List the scans of the study with their participants, sites and splits."""

from collections.abc import Sequence

from neuromf.data.participants import list_participants, write_table
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    write_table(list_participants(seed=args.config["seed"], **args.config["cohort"]), args.out)


if __name__ == "__main__":
    main()
