"""Draw figure 5 from the table of the sweep and the findings of the study."""

from collections.abc import Sequence
from typing import Any

from neuromf.figures import style
from neuromf.figures.loss_exponent import fig_5
from neuromf.metrics.ablations import Metric
from neuromf.metrics.table import read_rows
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "questions", "config:json", "out")
    table, found = read_rows(args.table), read_rows(args.questions)
    front = found[(found["question"] == "front") & (found["ablation"] == table["ablation"].iloc[0])]
    drawn: dict[str, Any] = {name: Metric(**args.config[name])[:2] for name in ("distance", "similarity")}
    style.save(fig_5(table, front, base=args.config["base"], **drawn), args.out, args.config)


if __name__ == "__main__":
    main()
