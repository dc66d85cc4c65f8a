"""List the scans of the study with their people, sites and splits."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from neuromf.data.participants import merge_tables, split_by_participant, tidy, write_table
from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import read_folder
from neuromf.data.sources.table import read_listed
from workflow_scripts._cli import arguments

logger = logging.getLogger("neuromf.cohort")

SOURCES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "folder": read_folder,
    "bids": read_bids,
    "table": read_listed,
}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    settings = dict(args.config)
    source, shares, seed = (settings.pop(name) for name in ("source", "shares", "seed"))
    table = merge_tables(settings["tables"]) if source == "embedded" else tidy(SOURCES[source](**settings))
    table.insert(table.columns.get_loc("problem"), "split", split_by_participant(table, shares, seed))
    write_table(table, args.out)
    fine = table[table["problem"] == ""]
    counts = ", ".join(f"{n} {split}" for split, n in fine["split"].value_counts().items())
    people, bad = fine["person"].nunique(), len(table) - len(fine)
    logger.info("%d scans of %d people (%s), %d more with a problem", len(fine), people, counts, bad)


if __name__ == "__main__":
    main()
