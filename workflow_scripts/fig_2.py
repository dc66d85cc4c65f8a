"""Draw figure 2 from the tables of the torus study."""

from collections.abc import Sequence

import pandas as pd

from neuromf.figures import style
from neuromf.figures.torus import fig_2
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "history", "samples", "summary", "config:json", "out")
    fig = fig_2(*(pd.read_csv(path) for path in (args.history, args.samples, args.summary)))
    style.save(fig, args.out, args.config)


if __name__ == "__main__":
    main()
