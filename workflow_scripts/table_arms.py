"""Write the table of an ablation's arms from what was measured on them and what its questions came to."""

from collections.abc import Sequence

from neuromf.metrics.ablations import Metric
from neuromf.metrics.table import read_rows
from neuromf.report.tables import style
from neuromf.report.tables.arms import arms
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "questions", "config:json", "out")
    shown = [Metric(**metric) for metric in args.config["shown"]]
    table, columns, notes = arms(read_rows(args.table), read_rows(args.questions), shown)
    style.save(table, columns, args.out, args.config, notes)


if __name__ == "__main__":
    main()
