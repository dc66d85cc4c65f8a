"""Draw figure 7: held-out pairs of FLAIR and lesion mask and those of one evaluation, one by one and all together."""

from collections.abc import Sequence

import pandas as pd

from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.figures import style
from neuromf.figures.lesions import WINDOW, Pair, Together, fig_7
from neuromf.metrics.table import read as table_of
from workflow_scripts._cli import arguments

COLUMNS = 6
REAL, DRAWN = "real, held out", "generated, 1 evaluation"


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "pairs", "samples", "lesions", "metrics", "config:json", "out")
    table, each = read_table(args.pairs), pd.read_csv(args.lesions).set_index("scan")
    held = table[table["split"] != "train"]
    sets = {REAL: held, DRAWN: read_table(args.samples / "samples.tsv")}
    first = {name: listed[(each["ml"] > 0)[listed["scan"]].to_numpy()].head(COLUMNS) for name, listed in sets.items()}
    columns = max(map(len, first.values()))
    captions = {name: [caption(each.loc[scan]) for scan in listed["scan"]] for name, listed in first.items()}
    pairs = {name: [read(row) for row in listed.to_dict("records")] for name, listed in first.items()}
    files = {name: listed[["image", "mask"]].to_dict("records") for name, listed in first.items()}
    shown = {"files": files, "n": columns, "chosen": "the first of each table with a lesion", "window": WINDOW}
    fig = fig_7(pairs, args.config["spacing_mm"], columns, captions, together(each, table_of([args.metrics])))
    style.save(fig, args.out, {**args.config, "shown": shown})


def together(each: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Together]:
    """What all lesions of a set show: excess about their border, and how much thicker each makes the ribbon."""
    found = {}
    for name, real in ((REAL, True), (DRAWN, False)):
        profile = rows[(rows["metric"] == "lesion_brightness_at") & ((rows["arm"] == "real") == real)]
        mm = profile["features"].str.removesuffix(" mm").astype(float)
        thicker = each.loc[(each["arm"] == "real") == real, "thickening_mm"].dropna()
        found[name] = Together(profile.assign(mm=mm), thicker.to_numpy())
    return found


def caption(lesion: pd.Series) -> str:
    """Volume of a lesion, and how much brighter it is than other heads at its place."""
    return f"{lesion['ml']:.1f} ml" + (f", {lesion['lesion_brightness']:+.2f}" if pd.notna(lesion["lesion_brightness"]) else "")


def read(row: dict) -> Pair:
    image, mask = (read_volume(row[name])[0] for name in ("image", "mask"))
    return image, mask > 0.5


if __name__ == "__main__":
    main()
