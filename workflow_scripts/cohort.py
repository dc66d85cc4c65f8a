"""List the scans of the study with their people, sites and splits."""

import logging
from collections.abc import Sequence

from neuromf.cohort import merge_tables, read_folder, split_by_person, write_table
from workflow_scripts._cli import arguments

logger = logging.getLogger("neuromf.cohort")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "config:json", "out")
    config = args.config
    if config["source"] == "embedded":
        table = merge_tables(config["tables"])
    else:
        optional = {name: config.get(name) for name in ("participants", "masks")}
        table = read_folder(config["root"], config["pattern"], config["scan_regex"], **optional)
    table.insert(table.columns.get_loc("problem"), "split", split_by_person(table, config["shares"], config["seed"]))
    write_table(table, args.out)
    fine = table[table["problem"] == ""]
    counts = ", ".join(f"{n} {split}" for split, n in fine["split"].value_counts().items())
    people, bad = fine["person"].nunique(), len(table) - len(fine)
    logger.info("%d scans of %d people (%s), %d more with a problem", len(fine), people, counts, bad)


if __name__ == "__main__":
    main()
