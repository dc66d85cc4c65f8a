"""Gather what became of every scan: accepted, or set aside and why."""

import logging
from collections.abc import Sequence

import pandas as pd

from neuromf.data.participants import read_table, write_table
from workflow_scripts._cli import arguments

logger = logging.getLogger("neuromf.qc")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "shards:paths", "out")
    table = pd.concat([read_table(shard / "qc.tsv") for shard in args.shards]).sort_values("scan")
    write_table(table, args.out)
    accepted = (table["status"] == "accepted").sum()
    kinds = table.loc[table["status"] != "accepted", "reason"].str.split(":").str[0].value_counts()
    reasons = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"
    if not accepted:
        raise SystemExit(
            f"none of {len(table)} scans can be used ({reasons}); "
            f"the column reason of {args.shards[0] / 'qc.tsv'} says why, scan by scan"
        )
    logger.info("%d accepted, %d set aside: %s", accepted, len(table) - accepted, reasons)


if __name__ == "__main__":
    main()
