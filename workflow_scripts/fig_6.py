"""Draw figure 6 from the table of an ablation and the one-step samples of its arms, in the order of the config."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.figures import style
from neuromf.figures.prediction import fig_6
from neuromf.metrics.table import read_rows
from workflow_scripts._cli import arguments

COLUMNS = 4


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "table", "samples:paths", "config:json", "out")
    distance = args.config["distance"]["metric"], args.config["distance"]["features"]
    volumes = {arm: first(folder) for arm, folder in zip(args.config["shown"], args.samples, strict=True)}
    fig = fig_6(
        read_rows(args.table), volumes, distance=distance, spacing_mm=args.config["spacing_mm"], columns=COLUMNS
    )
    style.save(fig, args.out, args.config)


def first(folder: Path) -> NDArray | None:
    """The first volumes of a folder of samples, or None where it is not there."""
    listed = folder / "samples.tsv"
    return (
        np.stack([read_volume(file)[0] for file in read_table(listed)["file"][:COLUMNS]]) if listed.is_file() else None
    )


if __name__ == "__main__":
    main()
