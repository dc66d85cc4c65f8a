"""Studies of one scale from their source: read or simulated, cleaned, reduced to the subset, split and written.

The three scales go through the same code; only the source and the number of studies differ.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from neuromf.atlas.checks import check_maps
from neuromf.atlas.cleaning import Policy, clean_tables
from neuromf.atlas.guards import MOCK, statement
from neuromf.atlas.kernel_maps import Combine, kernel_maps
from neuromf.atlas.metadata import fit_schema
from neuromf.atlas.studies import Studies, assign_splits, check_splits, read_studies, subset_rows, write_studies
from neuromf.core.files import atomic_write, write_json
from neuromf.data.brain_grid import brain_grid
from neuromf.data.neurosynth import ATTRIBUTION, CoordinateTables, read_neurosynth
from neuromf.simulation.foci import simulate_foci

logger = logging.getLogger(__name__)

N_MOCK, N_SUBSET = 100, 1000


def prepare_studies(
    out: str | Path,
    *,
    scale: str,
    data_root: str | Path,
    space: Mapping[str, Policy],
    split: Sequence[float],
    seed: int,
    max_rise: float = 0.10,
    min_foci: int = 5,
    exclude_modalities: Sequence[str] = (),
) -> Studies:
    """Write and return the studies of a scale: studies.tsv, foci.npz, topics.npz, scale.json, coordinate_log.json.

    Arguments:
        out: Folder to write.
        scale: mock, subset_1k or full.
        data_root: Folder that holds neurosynth_v7; scale mock does not read it.
        space: What to do with studies of space "tal" and "unknown".
        split: Fractions of train, val and test.
        seed: Seed of mock studies, subset and splits.
        max_rise: Rise of a study's fraction of foci outside the brain above which it is not transformed.
        min_foci: Studies with fewer foci after cleaning are excluded.
        exclude_modalities: Modality flags whose studies are excluded.

    Raises:
        ValueError: If a file is missing or not as expected.
    """
    tables = read_source(scale, data_root, seed)
    studies, log = clean_tables(
        tables, brain_grid("2mm"), scale=scale, space=space, max_rise=max_rise, min_foci=min_foci,
        exclude_modalities=tuple(exclude_modalities),
    )  # fmt: skip
    if scale == "subset_1k":
        studies = studies.take(subset_rows(studies, N_SUBSET, seed))
    studies = assign_splits(studies, split, seed)
    check_splits(studies)
    provenance = {"source": tables.source, "manifest": tables.manifest, "licence": tables.licence, "seed": seed,
                  "fractions": list(split)}  # fmt: skip
    provenance |= {} if scale == MOCK else {"attribution": ATTRIBUTION}
    write_studies(studies, out, statement=statement(scale), **provenance)
    write_json(Path(out) / "coordinate_log.json", {"scale": scale, **log}, indent=None)  # type: ignore[arg-type]
    _copy_licence(tables, data_root, out)
    logger.info("%d studies and %d foci of scale %s", len(studies), len(studies.points), scale)
    return studies


def read_source(scale: str, data_root: str | Path, seed: int) -> CoordinateTables:
    """Tables of a scale: simulated for mock, else those of Neurosynth, compared with the digests that are known."""
    if scale == MOCK:
        logger.warning("%s", statement(scale))
        return simulate_foci(N_MOCK, seed=seed)
    folder = Path(data_root) / "neurosynth_v7"
    return read_neurosynth(folder, sha256=known_digests(folder))


def known_digests(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, from the records of downloads in a folder and MANIFEST.tsv of its parent folder."""
    found = {}
    if (manifest := folder.parent / "MANIFEST.tsv").is_file():
        table = pd.read_csv(manifest, sep="\t", dtype=str)
        own = table[table["file"].str.startswith(f"{folder.name}/")]
        found = {name.split("/")[-1]: digest for name, digest in zip(own["file"], own["sha256"], strict=True)}
    for record in folder.glob("*.json"):
        values = json.loads(record.read_text(encoding="utf-8"))
        if "sha256" in values:
            found[record.name.removesuffix(".json")] = values["sha256"]
    return found


def _copy_licence(tables: CoordinateTables, data_root: str | Path, out: str | Path) -> None:
    """The licence of the source beside its derived tables."""
    text = Path(data_root) / "neurosynth_v7" / "LICENSE.txt"
    if tables.source == "neurosynth" and text.is_file():
        shutil.copyfile(text, Path(out) / "LICENSE.txt")
    else:
        (Path(out) / "LICENSE.txt").write_text(f"{tables.licence}\n", encoding="utf-8")


def write_maps(folder: str | Path, out: str | Path, *, grid: str, fwhm_mm: float, combine: Combine) -> None:
    """Write the maps (n_studies, n_voxels) of the studies in a folder as float16 to a .npy file."""
    studies = read_studies(folder)
    maps = kernel_maps(studies, brain_grid(grid), fwhm_mm, combine)
    check_maps(maps, studies.table["id"].tolist(), brain_grid(grid))
    with atomic_write(out) as part, open(part, "wb") as file:
        np.save(file, maps)


def write_schema(folder: str | Path, out: str | Path) -> None:
    """Write the metadata schema of the training studies in a folder as JSON."""
    studies = read_studies(folder)
    schema = fit_schema(studies.take(studies.rows("train")))
    write_json(out, {"scale": studies.scale, "width": schema.width, **schema.to_json()})
