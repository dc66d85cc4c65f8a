"""Merge the disentanglement scores of the experiments, and draw figure F3."""

from collections.abc import Sequence

from neuromf.figures import growth_disentanglement
from neuromf.growth.disentanglement_study import merge_scores
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "table", "config:json", "out")
    merge_scores(args.tables, args.table)
    arrays = [path.with_suffix(".npz") for path in args.tables]
    growth_disentanglement.render(tables=arrays, out=args.out, **args.config)


if __name__ == "__main__":
    main()
