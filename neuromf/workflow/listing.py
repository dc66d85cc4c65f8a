"""Scans and lesion pairs of a study, listed before any job runs, and a digest that changes with them."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from neuromf.config.cohort import Cohort
from neuromf.config.lesions import Lesions
from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import read_folder
from neuromf.data.sources.pairs import read_pairs
from neuromf.data.sources.table import list_table
from neuromf.workflow.params import as_json, dump

# File names of IXI, as the rule ixi writes them.
IXI = {
    "pattern": "T1/IXI*-T1.nii.gz",
    "scan_regex": "(?P<scan>(?P<participant>IXI[0-9]{3})-(?P<site>Guys|HH|IOP)-[0-9]+)-T1",
    "participants": "participants.tsv",
}
SOURCES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "folder": read_folder,
    "bids": read_bids,
    "table": list_table,
}


class Listing(NamedTuple):
    """Number of scans of a cohort, as known before any job, and a digest that changes with them."""

    n: int
    digest: str


def source_values(cohort: Cohort) -> dict:
    """Keyword arguments of the cohort's reader, with root as a full path; IXI is read as a folder."""
    values = dump(getattr(cohort, cohort.source))
    if cohort.source == "ixi":
        return {"source": "folder", "root": values["folder"], **IXI}
    return {"source": cohort.source, **values}


def list_scans(cohort: Cohort) -> Listing:
    """The scans of a cohort.

    The embedded cohort and IXI have a known number of scans, which need not exist yet. Files named by a table are not
    checked.

    Raises:
        SystemExit: If the source cannot be read, with the reason.
    """
    if cohort.source in ("embedded", "ixi"):
        n = cohort.embedded.n_participants if cohort.source == "embedded" else cohort.ixi.expected
        return Listing(n, _digest([str(number) for number in range(n)]))
    values = source_values(cohort)
    source, root = values.pop("source"), values["root"]
    if not os.path.isdir(root):
        raise SystemExit(f"cohort.{source}.root is {root}, which is no folder; set it to the folder of your scans")
    try:
        rows = SOURCES[source](**values)
    except ValueError as error:
        raise SystemExit(f"cohort.{source}: {error}") from error
    return Listing(sum(not row["problem"] for row in rows), _digest([as_json(**row) for row in rows]))


def pairs_source(lesions: Lesions) -> dict:
    """Source of lesion pairs and its settings; simulated pairs are read as a BIDS folder."""
    if lesions.source == "simulated":
        return {"source": "bids", "bids": {"root": "results/fcd/phantom"}}
    return {"source": lesions.source, lesions.source: dump(getattr(lesions, lesions.source))}


def pairs_digest(lesions: Lesions) -> str:
    """Digest of the listed pairs; empty for simulated ones, which a job makes.

    Raises:
        SystemExit: If the source cannot be read, with the reason.
    """
    if lesions.source == "simulated":
        return ""
    try:
        rows = read_pairs(source=lesions.source, **pairs_source(lesions)[lesions.source])
        return _digest([as_json(**row) for row in rows])
    except ValueError as error:
        raise SystemExit(f"lesions.{lesions.source}: {error}") from error


def n_shards(n_scans: int, scans_per_shard: int) -> int:
    """Number of jobs that handle n_scans, each about scans_per_shard of them."""
    return max(1, math.ceil(n_scans / scans_per_shard))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
