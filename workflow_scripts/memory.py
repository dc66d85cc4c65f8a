"""Write the GPU memory of every job of a study, and the hours of its trainings, without a GPU."""

from collections.abc import Sequence

from neuromf.benchmarks import memory
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "table", "page")
    memory.write(table=args.table, page=args.page, **args.config)


if __name__ == "__main__":
    main()
