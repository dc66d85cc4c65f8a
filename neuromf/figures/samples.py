"""Figure 3: real and generated brains in three planes, and the training scans nearest to the generated ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.data.participants import read_table
from neuromf.figures import brains, style
from neuromf.figures.names import TEST

COLUMNS = 8
NEAREST = "nearest in training"
NAME_X, LEFT = 0.06, 0.26  # inches from the left of the page to the names and to the panels


def render(*, qc: Path, samples: Sequence[Path], pairs: Path, out: Path, **config: Any) -> None:
    """Draw figure 3 from the first test scans, the first samples, and the training scans nearest to these.

    Arguments:
        samples: Folders of samples named nfe-N; nearest scans are those of the first folder.
        pairs: Nearest training scans (csv), columns generated, train (files), distance, view (1: train is mirrored).
        config: spacing_mm (voxel size).
    """
    from neuromf.data.preprocessing import volumes_of_split  # imports torch, which drawing does not need

    generated, seeds = sample_files(samples)
    files = {TEST: volumes_of_split(read_table(qc), "test"), **generated}
    columns = min(COLUMNS, *map(len, files.values()))
    files = {name: some[:columns] for name, some in files.items()}
    first = next(iter(generated))
    nearest = nearest_scans(pd.read_csv(pairs), files[first])
    sets = {name: brains.read(some) for name, some in files.items()}
    sets = {name: sets[name] for name in (TEST, first)} | {NEAREST: read_mirrored(nearest)} | sets
    captions = {NEAREST: [f"distance {value:.3g}" for value in nearest["distance"]]}
    volumes = {"files": files, "n": columns, "seeds": seeds, "window": brains.WINDOW}
    volumes["nearest"] = nearest.to_dict("records")
    style.save(draw(sets, config["spacing_mm"], columns, captions), out, {**config, "volumes": volumes})


def sample_files(folders: Sequence[Path]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Files and seed of each folder of samples, by display name; folders with equal seeds share their noise."""
    files: dict[str, list[str]] = {}
    seeds: dict[str, str] = {}
    for folder in folders:
        table = read_table(folder / "samples.tsv")
        what = "same noise" if table["seed"][0] in seeds.values() else "generated"
        name = f"{what}, NFE {int(folder.name.removeprefix('nfe-'))}"
        files[name], seeds[name] = table["file"].tolist(), table["seed"][0]
    return files, seeds


def nearest_scans(pairs: pd.DataFrame, files: Sequence[str]) -> pd.DataFrame:
    """Rows of `pairs` for these generated files, in their order.

    Raises:
        ValueError: If a generated file is missing in `pairs`.
    """
    table = pairs.set_index("generated")
    if missing := [file for file in files if file not in table.index]:
        raise ValueError(
            f"no nearest training scan of {missing[0]} and {len(missing) - 1} more; the table of pairs has "
            f"{len(table)} other samples: compute it from the same samples"
        )
    return table.loc[list(files)].reset_index()


def read_mirrored(pairs: pd.DataFrame) -> list[NDArray]:
    """Training scans of pairs, mirrored left to right where column view is 1."""
    return [x[::-1] if view else x for x, view in zip(brains.read(pairs["train"]), pairs["view"], strict=True)]


def draw(
    sets: Mapping[str, Sequence[NDArray]],
    spacing_mm: float,
    columns: int = COLUMNS,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """One block of three rows (axial, coronal, sagittal) per set, one brain per column, one window and one scale.

    The first panels of a block mark left and right and have a bar of 5 cm.

    Arguments:
        sets: Volumes (I, J, K) in [0, 1], RAS+, at least `columns` of each set, by display name.
        spacing_mm: Voxel size.
        captions: Texts under the columns of a set.
    """
    sets = {name: list(volumes[:columns]) for name, volumes in sets.items()}
    crop = brains.box([volume for volumes in sets.values() for volume in volumes])
    across, along, up = (s.stop - s.start for s in crop)
    width = max(across, along)  # axial and coronal slices are padded to the width of sagittal ones
    inch = ((style.PAGE - LEFT) / columns - brains.GAP) / width
    heights = [inch * high for high in (along, up, up)]
    fig, blocks = brains.blocks(
        list(sets), heights, columns, inch * width, name_x=NAME_X, left=LEFT, captions=captions or {}
    )
    for k, (name, rows) in enumerate(blocks.items()):
        for plane, row in zip(brains.PLANES, rows, strict=True):
            for ax, volume in zip(row, sets[name], strict=True):
                brains.show(ax, brains.pad(brains.cut(volume, plane, crop, spacing_mm), width))
        brains.sides(rows[0][0])
        brains.sides(rows[1][0])
        brains.scale_bar(rows[2][0], width * spacing_mm, label=k == 0)
    return fig
