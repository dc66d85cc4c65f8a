"""Write table 1, the main comparison, from the metrics of all runs and what generation costs."""

from collections.abc import Sequence

import pandas as pd

from neuromf.metrics.table import read_rows
from neuromf.report.tables import style
from neuromf.report.tables.comparison import table_1
from workflow_scripts._cli import arguments

CHOICES = ("run", "shown", "features", "timed", "names")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "metrics", "timing", "config:json", "out")
    choices = {name: args.config[name] for name in CHOICES if name in args.config}
    table, columns, notes = table_1(read_rows(args.metrics), pd.read_csv(args.timing), **choices)
    style.save(table, columns, args.out, args.config, notes)


if __name__ == "__main__":
    main()
