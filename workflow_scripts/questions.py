"""Answer every question of the study from the tables of its ablations."""

import logging
from collections.abc import Sequence

from neuromf.metrics.ablations import Metric, questions, write_rows
from neuromf.metrics.table import read_rows
from workflow_scripts._cli import arguments

logger = logging.getLogger("neuromf.questions")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "tables:paths", "config:json", "out")
    metrics = {name: Metric(**args.config.pop(name)) for name in ("distance", "similarity")}
    found = questions([read_rows(path) for path in args.tables], **{**metrics, **args.config})
    write_rows(found, args.out)
    for row in found[~found["question"].isin(["pair", "front"])].to_dict("records"):
        logger.info("%s, %s of %s: %s", row["ablation"], row["question"], row["a"], row["finding"])


if __name__ == "__main__":
    main()
