"""Compare the experiments over random seeds: mean and standard deviation of every disentanglement score."""

from collections.abc import Sequence

from neuromf.growth.disentanglement_study import merge_scores, summarise
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "table", "out")
    summarise(merge_scores(args.tables, args.table), args.out)


if __name__ == "__main__":
    main()
