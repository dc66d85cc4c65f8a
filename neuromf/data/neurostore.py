"""The NeuroStore extract inside NiMARE's wheel: contrasts of n-back and flanker tasks with sign, sample size and task.

Rows are contrasts. It is the only source of signs and sample sizes, and is never mixed with Neurosynth: two thirds of
its studies are in both.

References:
    NeuroStore, https://neurostore.org, extract of July 2026 by NiMARE (nback_vs_flanker_studyset_2026-07)
"""

from importlib import metadata as packages
from pathlib import Path

import numpy as np
import pandas as pd

from neuromf.core import files
from neuromf.data.neurosynth import CoordinateTables, check_tables

FOLDER = "nimare/resources/nback_vs_flanker_studyset_2026-07"
TABLES = ("coordinates", "metadata", "studies", "annotations")
COUNT = r"ParticipantDemographicsExtractor\.groups\[\d+\]\.count"  # participants of one group
LICENCE = "CC0 (NeuroStore)"


def read_neurostore() -> CoordinateTables:
    """Contrasts of the extract: coordinates with sign (0 if unknown) and n, metadata with study, task and n_subjects.

    The extract has no year and no topics.

    Raises:
        ImportError: If NiMARE is not installed.
    """
    paths = {name: _folder() / f"{name}.parquet" for name in TABLES}
    raw = {name: pd.read_parquet(path) for name, path in paths.items()}
    metadata = _metadata(raw)
    coordinates = _coordinates(raw["coordinates"], metadata)
    check_tables(coordinates, metadata)
    digests = {path.name: files.sha256(path) for path in paths.values()}
    empty = np.zeros((len(metadata), 0), np.float32)
    return CoordinateTables(coordinates, metadata, empty, (), "neurostore", LICENCE, digests)


def _folder() -> Path:
    try:
        return Path(str(packages.distribution("nimare").locate_file(FOLDER)))
    except packages.PackageNotFoundError:
        raise ImportError(
            "the NeuroStore extract is inside NiMARE, which is not installed: pip install 'neuromf[atlas]'"
        ) from None


def _metadata(raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per contrast; n_subjects is the sum over the groups of its study, NaN if none is stated."""
    annotations = raw["annotations"].set_index("id")
    groups = annotations[[name for name in annotations if pd.Series([name]).str.fullmatch(COUNT)[0]]]
    counts = groups.apply(pd.to_numeric, errors="coerce").sum(axis=1, min_count=1)
    table, titles = raw["metadata"], raw["studies"].set_index("study_id")["name"]
    space = raw["coordinates"].groupby("id")["space"].first().reindex(table["id"])
    return pd.DataFrame({
        "id": table["id"].to_numpy(str),
        "study": table["study_id"].to_numpy(str),
        "space": space.where(space.isin(["MNI", "TAL"]), "UNKNOWN").to_numpy(str),
        "title": table["study_id"].map(titles).fillna("").to_numpy(str),
        "year": np.nan,
        "journal": table["journal"].fillna("").to_numpy(str),
        "task": table["comparison_task"].to_numpy(str),
        "n_subjects": table["id"].map(counts).to_numpy(float),
    })  # fmt: skip


def _coordinates(raw: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """Foci with the sign of t, or of z; `n` is the sample size of their contrast."""
    sign = np.sign(raw["t_stat"].fillna(raw["z_stat"]).fillna(0)).astype(np.int8)
    n = raw["id"].map(metadata.set_index("id")["n_subjects"])
    table = raw[["id", "x", "y", "z"]].assign(table_id=raw["id"], sign=sign, n=n)
    return table.astype({"id": str, "table_id": str})
