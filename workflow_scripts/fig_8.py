"""Draw figure 8 from the table of regional volumes."""

from collections.abc import Sequence

import pandas as pd

from neuromf.figures import style
from neuromf.figures.regions import fig_8
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "volumes", "config:json", "out")
    style.save(fig_8(pd.read_csv(args.volumes)), args.out, args.config)


if __name__ == "__main__":
    main()
