"""Whether a small segmentation network finds real lesions better when generated pairs are in its training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.lesions import segmentation
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "samples", "pairs", "arm:str", "config:json", "out")
    table, drawn = read_table(args.pairs), read_table(args.samples / "samples.tsv")
    real, held = read(table[table["split"] == "train"]), read(held_out(table))
    rows = segmentation.compare(real, read(drawn), held, **args.config)
    pd.DataFrame(rows).assign(arm=args.arm).to_csv(args.out, index=False, float_format="%.6g")


def held_out(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of the test split; where it is empty, those of validation."""
    for split in ("test", "val"):
        if len(held := table[table["split"] == split]):
            return held
    raise SystemExit("no pair is held out: set fcd.segmentation_steps to 0, or give fcd.split a share of test or val")


def read(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks (N, I, J, K) of a table of pairs."""
    images, masks = (read_volumes(table[name])[:, 0].float().numpy() for name in ("image", "mask"))
    return images, masks > 0.5


if __name__ == "__main__":
    main()
