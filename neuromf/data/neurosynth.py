"""Neurosynth: coordinates of activations, metadata and topic weights of studies, as published.

Rows of metadata and topic weights are in the same order. Coordinates are in the space that each study reported; labels
of spaces are automatic. The database has no statistic, sign or sample size, so no table here has one.

References:
    Large-scale automated synthesis of human functional neuroimaging data (Yarkoni et al., 2011), Nature Methods
    https://github.com/neurosynth/neurosynth-data, ODbL 1.0
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.core import files

logger = logging.getLogger(__name__)

PREFIX = "data-neurosynth_version-7"
COORDINATES, METADATA = f"{PREFIX}_coordinates.tsv.gz", f"{PREFIX}_metadata.tsv.gz"
TOPICS = f"{PREFIX}_vocab-{{vocabulary}}_source-abstract_type-weight_features.npz"
KEYS = f"{PREFIX}_vocab-{{vocabulary}}_keys.tsv"
LICENCE = "ODbL 1.0, https://opendatacommons.org/licenses/odbl/1-0/; derived databases keep it"
ATTRIBUTION = "Neurosynth, https://neurosynth.org"
KNOWN = {(14371, 507891): "complete version 7", (9542, 334476): "shared part of version 7"}  # studies, foci
COORDINATE_COLUMNS = ["id", "table_id", "x", "y", "z"]
METADATA_COLUMNS = ["id", "space", "title", "year", "journal"]
SPACES = ("MNI", "TAL", "UNKNOWN")


@dataclass(frozen=True)
class CoordinateTables:
    """Foci and studies as a source publishes them."""

    coordinates: pd.DataFrame  # id, table_id, x, y, z (mm); sign and n only where the source has them
    metadata: pd.DataFrame  # id, space, title, year, journal; one row per study
    topics: NDArray[np.float32]  # (studies, topics), in the order of metadata
    topic_words: tuple[str, ...]
    source: str  # neurosynth or mock
    licence: str
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 by file name

    @property
    def manifest(self) -> str:
        """SHA-256 over names and digests of all files."""
        lines = "\n".join(f"{name} {digest}" for name, digest in sorted(self.digests.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def read_neurosynth(
    folder: str | Path, *, vocabulary: str = "LDA50", sha256: Mapping[str, str] | None = None
) -> CoordinateTables:
    """Tables of Neurosynth version 7 in a folder.

    Arguments:
        folder: Folder of the published files.
        vocabulary: Topic model, such as LDA50.
        sha256: Expected SHA-256 by file name; files that it does not name are not compared.

    Raises:
        ValueError: If a file is missing or differs from its digest, or tables do not belong together.
    """
    names = [COORDINATES, METADATA, TOPICS.format(vocabulary=vocabulary), KEYS.format(vocabulary=vocabulary)]
    digests = {name: _checked_digest(Path(folder) / name, dict(sha256 or {}).get(name)) for name in names}
    coordinates, metadata = (_read_table(Path(folder) / name) for name in names[:2])
    check_tables(coordinates, metadata)
    topics, words = read_topics(Path(folder) / names[2], Path(folder) / names[3], len(metadata))
    version = KNOWN.get((len(metadata), len(coordinates)), "unknown part of version 7")
    logger.info("Neurosynth, %s: %d studies, %d foci", version, len(metadata), len(coordinates))
    return CoordinateTables(coordinates, metadata, topics, words, "neurosynth", LICENCE, digests)


def _checked_digest(path: Path, expected: str | None) -> str:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: run snakemake atlas_fetch, which downloads Neurosynth, point NEUROMF_REAL_DATA or "
            f"atlas.data_root to its parent folder, or set atlas.scale: mock"
        )
    found = files.sha256(path)
    if expected and found != expected:
        raise ValueError(f"{path} has SHA-256 {found}, expected is {expected}: remove it and download it again")
    return found


def _read_table(path: Path) -> pd.DataFrame:
    text = {"id": str, "table_num": str, "doi": str, "title": str, "authors": str}
    return pd.read_csv(path, sep="\t", dtype=text, keep_default_na=False, na_values={"year": [""]})


def check_tables(coordinates: pd.DataFrame, metadata: pd.DataFrame) -> None:
    """Raise ValueError if columns are missing, coordinates are not finite, or ids or spaces are unknown."""
    for table, columns in ((coordinates, COORDINATE_COLUMNS), (metadata, METADATA_COLUMNS)):
        if absent := [name for name in columns if name not in table]:
            raise ValueError(f"columns {', '.join(absent)} are missing; got {', '.join(table.columns)}")
    finite = np.isfinite(coordinates[["x", "y", "z"]].to_numpy(float)).all(1)
    if not finite.all():
        raise ValueError(f"coordinates of study {coordinates.loc[~finite, 'id'].iloc[0]} are not finite")
    if metadata["id"].duplicated().any():
        raise ValueError(f"study {metadata.loc[metadata['id'].duplicated(), 'id'].iloc[0]} has several metadata rows")
    if unknown := set(coordinates["id"]) - set(metadata["id"]):
        raise ValueError(f"{len(unknown)} studies have no metadata row, such as {min(unknown)}")
    if other := set(metadata["space"]) - set(SPACES):
        raise ValueError(f"spaces must be {', '.join(SPACES)}; got {', '.join(sorted(map(str, other)))}")


def read_topics(weights: Path, keys: Path, n_studies: int) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Topic weights (studies, topics) with rows that sum to 1, and the first three words of each topic.

    Raises:
        ValueError: If the weights are not those of `n_studies` studies, or are negative.
    """
    from scipy import sparse

    dense = sparse.load_npz(weights).toarray().astype(np.float32)
    if len(dense) != n_studies or (dense < 0).any() or not np.allclose(dense.sum(1), 1, atol=1e-3):
        raise ValueError(f"{weights.name} must have {n_studies} non-negative rows that sum to 1; got {dense.shape}")
    words = [line.split("\t")[2].split()[:3] for line in keys.read_text(encoding="utf-8").splitlines() if line]
    return dense / dense.sum(1, keepdims=True), tuple(" ".join(three) for three in words)
