"""Scans and lesion pairs of a study, listed before any job runs, and digests that change with them and their files."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neuromf.config.cohort import Cohort
from neuromf.config.lesions import Lesions
from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import read_folder
from neuromf.data.sources.pairs import read_pairs
from neuromf.data.sources.table import list_table
from neuromf.data.sources.walk import RESULTS, find_scans
from neuromf.workflow.digests import resolve
from neuromf.workflow.file_stamps import file_stamps
from neuromf.workflow.params import as_json, dump

N_SCANS = "NEUROMF_N_SCANS"  # environment variable by which jobs on a cluster get the number of scans

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
    """The scans of a cohort, as known before any job.

    Attributes:
        n: Number of scans.
        digest: Digest of the rows of the cohort, and of which of their files exist.
        stamps: Size and time of the files of each row.
    """

    n: int
    digest: str
    stamps: tuple[str, ...] = ()


def source_values(cohort: Cohort) -> dict:
    """Keyword arguments of the cohort's reader, with root as a full path; IXI is read as a folder."""
    values = dump(getattr(cohort, cohort.source))
    if cohort.source == "ixi":
        return {"source": "folder", "root": values["folder"], **IXI}
    return {"source": cohort.source, **values}


def plan_scans(cohort: Cohort, *, main: bool) -> Listing:
    """The scans of a cohort; jobs on a cluster, which read the Snakefile again, get their number alone.

    Arguments:
        cohort: Section cohort.
        main: Whether this process schedules the jobs: no other looks at files.

    Raises:
        SystemExit: As `list_scans`.
    """
    if not main and (n := os.environ.get(N_SCANS)):
        return Listing(int(n), "")
    listing = list_scans(cohort)
    os.environ[N_SCANS] = str(listing.n)
    return listing


def list_scans(cohort: Cohort) -> Listing:
    """The scans of a cohort.

    The embedded cohort and IXI have a known number of scans, which need not exist yet. Files are looked at, not opened.

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
    _refuse_results(f"cohort.{source}", root)
    try:
        rows = SOURCES[source](**values)
    except ValueError as error:
        raise SystemExit(f"cohort.{source}: {error}") from error
    stamps = _row_stamps(rows)
    lines = [as_json(**row, missing="missing" in stamp) for row, stamp in zip(rows, stamps, strict=True)]
    return Listing(sum(not row["problem"] for row in rows), _digest(lines), stamps)


def _refuse_results(section: str, root: str) -> None:
    """Refuse a root inside the results of this study: its volumes would become scans of the next run."""
    if Path(root).resolve().is_relative_to(Path(RESULTS).resolve()):
        raise SystemExit(
            f"{section}.root is {root}, inside the results of this study; set it to the folder of your scans, "
            "or choose another --directory for the results"
        )


def _row_stamps(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(file_stamps([[row[name] for name in ("file", "mask", "brain") if name in row] for row in rows]))


def shard_digest(cohort: Cohort, listing: Listing, shard: int, n_shards: int) -> str:
    """Digest of sizes and times of the files that the job of a shard reads; "" for simulated scans.

    The scans of IXI are listed when the digest is asked for: they are downloaded after the others are planned.
    """
    stamps = listing.stamps
    if cohort.source == "ixi":
        stamps = tuple(file_stamps([[str(path)] for path in find_scans(resolve(cohort.ixi.folder), IXI["pattern"])]))
    return _digest(stamps[shard::n_shards]) if stamps else ""


def pairs_source(lesions: Lesions) -> dict:
    """Source of lesion pairs and its settings; simulated pairs are read as a BIDS folder."""
    if lesions.source == "simulated":
        return {"source": "bids", "bids": {"root": "results/fcd/phantom"}}
    return {"source": lesions.source, lesions.source: dump(getattr(lesions, lesions.source))}


def pairs_digest(lesions: Lesions) -> str:
    """Digest of the listed pairs and of sizes and times of their files; "" for simulated ones, which a job makes.

    Raises:
        SystemExit: If the source cannot be read, with the reason.
    """
    if lesions.source == "simulated":
        return ""
    values = pairs_source(lesions)[lesions.source]
    _refuse_results(f"lesions.{lesions.source}", values["root"])
    try:
        rows = read_pairs(source=lesions.source, **values)
        return _digest([*(as_json(**row) for row in rows), *_row_stamps(rows)])
    except ValueError as error:
        raise SystemExit(f"lesions.{lesions.source}: {error}") from error


def n_shards(n_scans: int, scans_per_shard: int) -> int:
    """Number of jobs that handle n_scans, each about scans_per_shard of them."""
    return max(1, math.ceil(n_scans / scans_per_shard))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
