"""Draw figure 4 from the table of an ablation: distance against evaluations, beside quoted numbers where given."""

from collections.abc import Sequence

import pandas as pd

from neuromf.figures import style
from neuromf.figures.evaluations import fig_4
from neuromf.metrics.table import read_rows
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "config:json", "out")
    quoted = args.config["quoted"] and pd.read_csv(args.config["quoted"])
    fig = fig_4(read_rows(args.table), **args.config["distance"], quoted=quoted)
    style.save(fig, args.out, args.config)


if __name__ == "__main__":
    main()
