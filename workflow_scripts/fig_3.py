"""Draw figure 3: held-out people, samples, and the training heads nearest to the first of the sample folders.

--pairs names a table with columns generated, train (files) and distance, and view (1 where the head is mirrored);
without it the nearest heads are left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from numpy.typing import NDArray

from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import of_split
from neuromf.figures import style
from neuromf.figures.samples import WINDOW, fig_3
from workflow_scripts._cli import arguments

COLUMNS = 8
REAL, NEAREST = "real, held out", "nearest in training"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    optional = [name for name in ("pairs",) if f"--{name}" in argv]
    args = arguments(__doc__, argv, "qc", "samples:paths", *optional, "config:json", "out")
    drawn, seeds = samples(args.samples)
    files = {REAL: of_split(read_table(args.qc), "test"), **drawn}
    columns = min(COLUMNS, *map(len, files.values()))
    files = {name: some[:columns] for name, some in files.items()}
    sets = {name: [read_volume(file)[0] for file in some] for name, some in files.items()}
    facts, captions = {"files": files, "n": columns, "seeds": seeds, "window": WINDOW}, {}
    if optional:
        _, ours, *others = files
        found = nearest(pd.read_csv(args.pairs), files[ours])
        sets = {REAL: sets[REAL], ours: sets[ours], NEAREST: heads(found), **{name: sets[name] for name in others}}
        captions, facts["nearest"] = (
            {NEAREST: [f"distance {each:.3g}" for each in found["distance"]]},
            found.to_dict("records"),
        )
    style.save(fig_3(sets, args.config["spacing_mm"], columns, captions), args.out, {**args.config, "shown": facts})


def samples(folders: Sequence[Path]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Files and seed of each folder of samples, by what is said of it; equal seeds are the same noise."""
    files: dict[str, list[str]] = {}
    seeds: dict[str, str] = {}
    for folder in folders:
        table, n = read_table(folder / "samples.tsv"), int(folder.name.removeprefix("nfe-"))
        what = "same noise" if table["seed"][0] in seeds.values() else "generated"
        name = f"{what}, {n} evaluation{'s' * (n > 1)}"
        files[name], seeds[name] = table["file"].tolist(), table["seed"][0]
    return files, seeds


def nearest(pairs: pd.DataFrame, files: Sequence[str]) -> pd.DataFrame:
    """Rows of the pairs for these generated files, in their order."""
    found = pairs.set_index("generated")
    if missing := [file for file in files if file not in found.index]:
        raise ValueError(
            f"no nearest training head of {missing[0]} and {len(missing) - 1} more in the pairs, which name "
            f"{len(found)} others; make them from the same samples"
        )
    return found.loc[list(files)].reset_index()


def heads(found: pd.DataFrame) -> list[NDArray]:
    """The training heads of pairs, mirrored where their mirror image was the nearest."""
    mirrored = found["view"] if "view" in found else [0] * len(found)
    volumes = [read_volume(file)[0] for file in found["train"]]
    return [volume[::-1] if mirror else volume for volume, mirror in zip(volumes, mirrored, strict=True)]


if __name__ == "__main__":
    main()
