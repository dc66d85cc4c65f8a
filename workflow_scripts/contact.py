"""Draw the contact sheet: every scan at a glance, the odd ones first; write what is odd about each."""

from collections.abc import Sequence

from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table, write_table
from neuromf.figures import contact_sheet
from neuromf.metrics.images.outliers import coarse, correlation_with_median, find_outliers
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "config:json", "table", "out")
    qc = read_table(args.qc)
    accepted, others = qc[qc["status"] == "accepted"], qc[qc["status"] != "accepted"]
    tiles, lines = {}, []
    for scan, file in zip(accepted["scan"], accepted["volume"], strict=True):
        volume = read_volume(file)[0]
        tiles[scan] = contact_sheet.tile(volume, args.config["spacing_mm"])
        lines.append(coarse(volume))
    table = find_outliers(accepted, correlation_with_median(lines))
    write_table(table.round(4), args.table)
    names, flags = table["scan"].tolist(), table["flag"].tolist()
    set_aside = list(zip(others["scan"], others["reason"], strict=True))
    pages = contact_sheet.contact([tiles[name] for name in names], names, flags, set_aside)
    counts = {"scans": len(table), "odd": [name for name, flag in zip(names, flags, strict=True) if flag]}
    contact_sheet.save(pages, args.out, args.config | counts | {"set_aside": others["scan"].tolist()})


if __name__ == "__main__":
    main()
