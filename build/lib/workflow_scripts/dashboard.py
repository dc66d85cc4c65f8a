"""Draw the dashboard of a run from its history and its diagnostics."""

from collections.abc import Sequence

import pandas as pd

from neuromf.figures import style
from neuromf.figures.dashboard import COLUMNS, dashboard
from workflow_scripts._cli import arguments

ROWS = {  # robust to a run too short for a look, whose file has not even a header, and to parts that are all numbers
    "names": COLUMNS,
    "header": 0,
    "dtype": dict.fromkeys(("quantity", "t", "h", "part"), str),
    "keep_default_na": False,  # empty cells of text are empty text,
    "na_values": {"value": ["", "nan"]},  # and only a value can be missing
}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "history", "diagnostics", "config:json", "out")
    fig = dashboard(pd.read_csv(args.history), pd.read_csv(args.diagnostics, **ROWS))
    style.save(fig, args.out, args.config)


if __name__ == "__main__":
    main()
