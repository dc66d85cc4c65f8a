"""Tables of the atlas for programs without Python: latents, metadata, clusters, trajectories, as CSV and Parquet.

    latents       one row per study and model: id, split, model, z1 ... zd (posterior means)
    metadata      one row per study: what Neurosynth records, and the dominant topic
    clusters      one row per study and model: HDBSCAN cluster, -1 for noise
    trajectories  one row per year and model: number of studies, mean latent

`schema.json` has name, dtype, unit, description and licence of every column. All tables are derived from Neurosynth:
they stay under ODbL 1.0, which schema, Parquet metadata and LICENSE.txt state.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.atlas import clusters, guards
from neuromf.atlas.inference import load_atlas
from neuromf.atlas.studies import Studies, read_studies
from neuromf.core.files import atomic_write, sha256, write_json

VOLUME = "volume"  # name of the volume model in the tables
FORMATS = ("csv", "parquet")
SCHEMA, LICENCE = "schema.json", "LICENSE.txt"
DESCRIPTIONS = {
    "id": ("", "PubMed id of the study"),
    "split": ("", "train, val or test"),
    "model": ("", "model that the latents come from"),
    "cluster": ("", "HDBSCAN cluster of the latents, 0 is the largest, -1 is noise"),
    "year": ("year", "year of publication"),
    "space": ("", "space of the coordinates as labelled: MNI, TAL or UNKNOWN"),
    "title": ("", "title"),
    "journal": ("", "journal"),
    "doi": ("", "digital object identifier"),
    "authors": ("", "authors"),
    "n_tables": ("count", "tables with coordinates"),
    "n_foci": ("count", "foci after cleaning"),
    "n_studies": ("count", "studies of the year"),
    "topic": ("", "first words of the LDA50 topic of largest weight"),
    "topic_weight": ("fraction", "weight of this topic"),
}


def export_tables(
    *, studies: str | Path, checkpoint: str | Path, latents: Sequence[str | Path], out: str | Path, seed: int = 0
) -> None:
    """Write all tables, their schema and the licence into a folder, read them back and compare.

    Arguments:
        studies: Folder of studies.
        checkpoint: Checkpoint of the volume model.
        latents: Files with mu (n, d) and id (n,) of further models, named by model.
        out: Folder to write.

    Raises:
        ValueError: If a table that is read back differs, the licence is not stated, or scales are mixed.
    """
    everything, source = read_studies(studies), read_source(studies)
    atlas = load_atlas(checkpoint)
    guards.common_scale({"studies": everything.scale, "checkpoint": str(atlas.card["scale"])})
    spaces = {VOLUME: atlas.latents(everything)[0]} | {
        Path(path).stem: latents_of(Path(path), everything) for path in latents
    }
    tables = build_tables(everything, spaces, seed)
    write_tables(tables, Path(out), source)
    shutil.copyfile(Path(studies) / LICENCE, Path(out) / LICENCE)


def read_source(studies: str | Path) -> dict[str, Any]:
    """Scale, source, licence and attribution of a folder of studies.

    Raises:
        ValueError: If the licence is not stated, or the studies are those of development, which stage 4 refuses.
    """
    source = json.loads((Path(studies) / "scale.json").read_text(encoding="utf-8"))
    guards.require_stage(source["scale"], guards.LAST_STAGE, str(studies))
    guards.require_licence(source, "the export")
    return source


def latents_of(path: Path, studies: Studies) -> NDArray[np.float32]:
    """Posterior means (n, d) of a file, in the order of the studies.

    Raises:
        ValueError: If the file holds other studies.
    """
    found = np.load(path)
    if found["id"].tolist() != studies.table["id"].tolist():
        raise ValueError(f"{path} holds latents of other studies: write it again from these studies")
    return found["mu"].astype(np.float32)


def build_tables(studies: Studies, spaces: Mapping[str, NDArray], seed: int = 0) -> dict[str, pd.DataFrame]:
    """All tables by name.

    Arguments:
        spaces: Posterior means (n, d) of all studies by model.
    """
    table = studies.table
    rows = {name: table[["id", "split"]].assign(model=name).join(as_columns(z)) for name, z in spaces.items()}
    return {
        "latents": pd.concat(rows.values(), ignore_index=True),
        "metadata": metadata_table(studies),
        "clusters": pd.concat(
            [
                table[["id"]].assign(model=name, cluster=clusters.find_clusters(z, seed=seed).labels)
                for name, z in spaces.items()
            ],
            ignore_index=True,
        ),
        "trajectories": pd.concat(
            [trajectory(z, table["year"].to_numpy()).assign(model=name) for name, z in spaces.items()],
            ignore_index=True,
        ),
    }


def as_columns(z: NDArray) -> pd.DataFrame:
    """Columns z1 ... zd of latents (n, d), float32."""
    return pd.DataFrame(z.astype(np.float32), columns=[f"z{k + 1}" for k in range(z.shape[1])])


def metadata_table(studies: Studies) -> pd.DataFrame:
    """What the source records of each study, with the dominant topic."""
    table = studies.table.copy()
    if studies.topics.shape[1]:
        best = studies.topics.argmax(1)
        words = np.array([" ".join(str(text).split()[:3]) for text in studies.topic_words], dtype=object)
        table = table.assign(topic=words[best], topic_weight=studies.topics.max(1).astype(np.float32))
    return table


def trajectory(z: NDArray, years: NDArray) -> pd.DataFrame:
    """Number of studies and mean latent of each year."""
    means = as_columns(z).assign(year=years).groupby("year").mean().astype(np.float32)
    counts = pd.Series(years).value_counts().sort_index().to_numpy()
    means.insert(0, "n_studies", counts)
    return means.reset_index()


def write_tables(tables: Mapping[str, pd.DataFrame], out: Path, source: Mapping[str, Any]) -> None:
    """Write tables as CSV and Parquet with schema.json, and compare what is read back with what was written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    stated = {key: str(source.get(key, "")) for key in ("scale", "source", *guards.LICENCE_KEYS)}
    stated["statement"] = guards.statement(source["scale"])
    for name, table in tables.items():
        with atomic_write(out / f"{name}.csv") as part:
            table.to_csv(part, index=False, lineterminator="\n")
        packed = pa.Table.from_pandas(table, preserve_index=False)
        packed = packed.replace_schema_metadata({**(packed.schema.metadata or {}), **stated})
        with atomic_write(out / f"{name}.parquet") as part:
            pq.write_table(packed, part)
    described = {
        name: [describe(table[column], stated["licence"]) for column in table] for name, table in tables.items()
    }
    digests = {f"{name}.{kind}": sha256(out / f"{name}.{kind}") for name in tables for kind in FORMATS}
    write_json(out / SCHEMA, {**stated, "tables": described, "sha256": digests})
    for name, table in tables.items():
        check_round_trip(table, out, name)


def describe(column: pd.Series, licence: str) -> dict[str, str]:
    """Name, dtype, unit, description and licence of a column."""
    name = str(column.name)
    latent = name[0] == "z" and name[1:].isdigit()
    unit, text = (
        ("", f"latent dimension {name[1:]}") if latent else DESCRIPTIONS.get(name, ("", f"{name} of the study"))
    )
    dtype = "string" if column.dtype == object or str(column.dtype).startswith("str") else str(column.dtype)
    return {"name": name, "dtype": dtype, "unit": unit, "description": text, "licence": licence}


def read_table(out: str | Path, name: str, kind: str) -> pd.DataFrame:
    """A table of an export with the dtypes of its schema; `kind` is csv or parquet."""
    out = Path(out)
    dtypes = {row["name"]: row["dtype"] for row in json.loads((out / SCHEMA).read_text())["tables"][name]}
    plain = {column: "str" if dtype == "string" else dtype for column, dtype in dtypes.items()}
    if kind == "parquet":
        return pd.read_parquet(out / f"{name}.parquet").astype(plain)
    text = [column for column, dtype in dtypes.items() if dtype == "string"]
    numbers = [column for column in dtypes if column not in text]
    return pd.read_csv(
        out / f"{name}.csv",
        dtype=plain,
        float_precision="round_trip",
        keep_default_na=False,
        na_values=dict.fromkeys(numbers, [""]),
    )


def check_round_trip(table: pd.DataFrame, out: Path, name: str) -> None:
    """Raise ValueError unless both files of a table give back its values."""
    for kind in FORMATS:
        found = read_table(out, name, kind)
        expected = table.astype({column: str for column in table if table[column].dtype == object})
        try:
            pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=False)
        except AssertionError as error:
            raise ValueError(f"{out / name}.{kind} does not give back what was written: {error}") from error
