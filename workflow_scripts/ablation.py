"""Join what was measured on the arms of one ablation, and name the arms of which nothing was."""

import logging
from collections.abc import Sequence

from neuromf.metrics.ablations import gather, missing, write_rows
from workflow_scripts._cli import arguments

logger = logging.getLogger("neuromf.ablation")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "runs", "reference", "config:json", "out")
    table = gather(args.config["ablation"], args.config["arms"], args.runs, args.reference)
    write_rows(table, args.out)
    if absent := missing(table):
        logger.warning("%s lacks %s", args.out, ", ".join(absent))


if __name__ == "__main__":
    main()
