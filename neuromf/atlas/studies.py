"""Cleaned studies: their table, foci and topic weights; files, strata, splits and the guard against near-duplicates."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from neuromf.core.files import atomic_write, write_json

SCALES = ("mock", "subset_1k", "full", "neurostore")
SPLITS = ("train", "val", "test")
ONLY_NEUROSTORE = {
    "sign",
    "n_subjects",
    "task",
    "t",
    "z",
}  # columns that no other source has: elsewhere they are invented
N_BINS = 5  # quantile bins of year and of number of foci
SHARED = 0.5  # fraction of the smaller study's foci above which two studies are near-duplicates


@dataclass(frozen=True, eq=False)
class Studies:
    """Studies in a fixed order; foci of a study are contiguous.

    Raises:
        ValueError: If parts do not belong together, values are not finite, an id is repeated, or a column holds what
            the source does not have.
    """

    table: pd.DataFrame  # one row per study: id, year, space, title, journal, n_tables, n_foci, modality flags, split
    points: NDArray[np.float32]  # (n_foci, 3), mm, MNI
    starts: NDArray[np.int64]  # (n_studies + 1,): foci of study k are points[starts[k] : starts[k + 1]]
    topics: NDArray[np.float32]  # (n_studies, n_topics), rows sum to 1
    topic_words: tuple[str, ...]
    scale: str  # mock, subset_1k or full; neurostore for the extract with signs and sample sizes
    signs: NDArray[np.int8] | None = None  # (n_foci,), sign of the statistic, 0 if unknown; neurostore alone

    def __post_init__(self) -> None:
        check_studies(self)

    def __len__(self) -> int:
        return len(self.table)

    @functools.cached_property
    def study_of_focus(self) -> NDArray[np.int64]:
        """Row of the study of each focus, shape (n_foci,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def foci(self, k: int) -> NDArray[np.float32]:
        """Foci of study k, shape (n, 3), in mm."""
        return self.points[self.starts[k] : self.starts[k + 1]]

    def rows(self, split: str) -> NDArray[np.int64]:
        """Rows of the studies of a split."""
        return np.flatnonzero(self.table["split"].to_numpy() == split)

    def take(self, rows: Sequence[int] | NDArray) -> "Studies":
        """The studies of these rows, in this order."""
        rows = np.asarray(rows, np.int64)
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        foci = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return replace(
            self,
            table=self.table.iloc[rows].reset_index(drop=True),
            points=self.points[foci],
            starts=starts,
            topics=self.topics[rows],
            signs=None if self.signs is None else self.signs[foci],
        )

    def take_foci(self, keep: NDArray[np.bool_]) -> "Studies":
        """The same studies with the foci of a mask (n_foci,) alone; `n_foci` of the table stays that of all foci."""
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.study_of_focus[keep], minlength=len(self)))])
        return replace(
            self, points=self.points[keep], starts=starts, signs=None if self.signs is None else self.signs[keep]
        )


def check_studies(studies: Studies) -> None:
    """Raise ValueError as the class describes; the message names the first study concerned."""
    ids, n = studies.table["id"], len(studies.table)
    if studies.scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {studies.scale!r}")
    if ids.duplicated().any():
        raise ValueError(f"study {ids[ids.duplicated()].iloc[0]} has several rows: it could be in two splits")
    if len(studies.starts) != n + 1 or studies.starts[-1] != len(studies.points) or len(studies.topics) != n:
        raise ValueError(
            f"{n} rows need {n + 1} starts that end at {len(studies.points)} foci, and {n} topic rows; got "
            f"{len(studies.starts)} starts that end at {studies.starts[-1]}, {len(studies.topics)} topic rows"
        )
    invented = ONLY_NEUROSTORE & set(studies.table) or ({"signs"} if studies.signs is not None else set())
    if studies.scale != "neurostore" and invented:
        raise ValueError(f"{', '.join(sorted(invented))}: scale {studies.scale} has no source of these, so no column")
    _check_values(studies)


def _check_values(studies: Studies) -> None:
    ids = studies.table["id"].to_numpy()
    if studies.points.shape[1:] != (3,):
        raise ValueError(f"points must have shape (n_foci, 3); got {studies.points.shape}")
    if not (finite := np.isfinite(studies.points).all(1)).all():
        raise ValueError(f"a focus of study {ids[studies.study_of_focus[~finite][0]]} is not finite")
    valid = np.isclose(studies.topics.sum(1), 1, atol=1e-3) & (studies.topics >= 0).all(1)
    if studies.topics.shape[1] and not valid.all():
        raise ValueError(f"topic weights of study {ids[~valid][0]} must be 0 or more and sum to 1")


def write_studies(studies: Studies, folder: str | Path, **provenance: Any) -> None:  # noqa: ANN401  # JSON
    """Write studies.tsv, foci.npz, topics.npz and scale.json into a folder.

    Arguments:
        provenance: Further values of scale.json, such as manifest and licence.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "studies.tsv") as part:
        studies.table.to_csv(part, sep="\t", index=False, lineterminator="\n")
    signs = {} if studies.signs is None else {"signs": studies.signs}
    _save(folder / "foci.npz", points=studies.points, starts=studies.starts, **signs)
    _save(folder / "topics.npz", topics=studies.topics, words=np.array(studies.topic_words, dtype=str))
    counts = studies.table["split"].value_counts().to_dict()
    digest = hashlib.sha256(studies.table[["id", "split"]].to_csv(index=False).encode()).hexdigest()
    write_json(
        folder / "scale.json",
        {"scale": studies.scale, "n_studies": len(studies), "n_foci": len(studies.points), "splits": counts,
         "split_digest": digest, **provenance},
    )  # fmt: skip


def _save(path: Path, **arrays: NDArray) -> None:
    with atomic_write(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # the stubs take no dict of arrays


def read_studies(folder: str | Path) -> Studies:
    """The studies in a folder that `write_studies` wrote.

    Raises:
        ValueError: If files are missing or do not belong together.
    """
    import json

    folder = Path(folder)
    if absent := [n for n in ("studies.tsv", "foci.npz", "topics.npz", "scale.json") if not (folder / n).exists()]:
        raise ValueError(f"{folder} lacks {', '.join(absent)}: run snakemake {folder / 'studies.tsv'}")
    text = {name: str for name in ("id", "title", "journal", "space", "split", "task")}
    table = pd.read_csv(
        folder / "studies.tsv", sep="\t", dtype=text, keep_default_na=False, na_values={"n_subjects": [""]}
    )
    foci, topics = np.load(folder / "foci.npz"), np.load(folder / "topics.npz")
    scale = json.loads((folder / "scale.json").read_text())["scale"]
    signs = foci["signs"] if "signs" in foci else None
    return Studies(
        table, foci["points"], foci["starts"], topics["topics"], tuple(topics["words"].tolist()), scale, signs
    )


def strata(table: pd.DataFrame) -> NDArray[np.int64]:
    """Stratum of each study: quantile bin of the year times quantile bin of the number of foci, shape (n_studies,)."""
    bins = [_quantile_bin(table[name].to_numpy(float)) for name in ("year", "n_foci")]
    return bins[0] * N_BINS + bins[1]


def _quantile_bin(values: NDArray) -> NDArray[np.int64]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, N_BINS + 1)[1:-1])) if len(values) else np.zeros(0)
    return np.searchsorted(edges, values, side="left")


def seeded_order(ids: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Order of studies by the SHA-256 of seed and id: that of two studies does not depend on the others."""
    return np.argsort([hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in ids], kind="stable")


def subset_rows(studies: Studies, n: int, seed: int) -> NDArray[np.int64]:
    """Rows, ascending, of `n` studies with the proportions of the strata; all rows if there are no more than `n`."""
    if len(studies) <= n:
        return np.arange(len(studies))
    order = seeded_order(studies.table["id"].tolist(), seed)
    stratum = strata(studies.table)[order]
    rank = pd.Series(stratum).groupby(stratum).cumcount().to_numpy()
    position = (rank + 0.5) / np.bincount(stratum)[stratum]  # in its stratum, 0 to 1
    return np.sort(order[np.argsort(position, kind="stable")[:n]])


def near_duplicates(studies: Studies) -> NDArray[np.int64]:
    """Group of each study, shape (n_studies,): studies that share more than half of the foci of the smaller one.

    Foci are equal if they are in the same cubic millimetre. Groups are connected components.
    """
    places, column = np.unique(np.rint(studies.points).astype(np.int16), axis=0, return_inverse=True)
    shape = (len(studies), len(places))
    foci = sparse.csr_matrix((np.ones(len(column), np.int32), (studies.study_of_focus, column.ravel())), shape)
    foci.data[:] = 1
    shared = (foci @ foci.T).tocoo()
    sizes = np.asarray(foci.sum(1)).ravel()
    alike = shared.data > SHARED * np.minimum(sizes[shared.row], sizes[shared.col])
    graph = sparse.coo_matrix((np.ones(alike.sum()), (shared.row[alike], shared.col[alike])), (len(studies),) * 2)
    return connected_components(graph, directed=False)[1]


def assign_splits(studies: Studies, fractions: Sequence[float], seed: int) -> Studies:
    """The studies with their split: stratified by year and number of foci, near-duplicates on one side.

    Within a stratum groups are ordered by `seeded_order`; each goes to the split that lacks most of its fraction.

    Arguments:
        fractions: Fractions of train, val and test; they sum to 1.
    """
    if len(fractions) != 3 or not np.isclose(sum(fractions), 1) or min(fractions) < 0:
        raise ValueError(f"split must be three fractions that sum to 1; got {list(fractions)}")
    group, stratum = near_duplicates(studies), strata(studies.table)
    order = seeded_order(studies.table["id"].tolist(), seed)
    order = order[np.argsort(stratum[order], kind="stable")]
    sizes, counts = np.bincount(group), np.zeros(3)
    chosen = np.full(len(sizes), -1)
    for label in group[order]:
        if chosen[label] < 0:
            lacking = np.asarray(fractions) * (counts.sum() + sizes[label]) - counts
            chosen[label] = int(lacking.argmax())
            counts[chosen[label]] += sizes[label]
    return replace(studies, table=studies.table.assign(split=np.array(SPLITS)[chosen[group]]))


def check_splits(studies: Studies) -> None:
    """Raise ValueError if near-duplicates are in different splits, or a study is in none."""
    split, ids = studies.table["split"].to_numpy(), studies.table["id"].to_numpy()
    if not (known := np.isin(split, SPLITS)).all():
        raise ValueError(f"study {ids[~known][0]} has split {split[~known][0]!r}; allowed are {', '.join(SPLITS)}")
    for _, rows in pd.Series(np.arange(len(ids))).groupby(near_duplicates(studies)):
        if len({*split[rows]}) > 1:
            raise ValueError(f"near-duplicates {', '.join(ids[rows])} are in the splits {', '.join(split[rows])}")
