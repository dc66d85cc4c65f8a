"""The scans of a cohort, listed before any job runs."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import read_folder
from neuromf.data.sources.table import list_table
from neuromf.workflow.digests import as_json, resolve

# --- scans -------------------------------------------------------------------------------------------

# names of IXI's scans, as the rule ixi lays them out
IXI = {
    "pattern": "T1/IXI*-T1.nii.gz",
    "scan_regex": "(?P<scan>(?P<person>IXI[0-9]{3})-(?P<site>Guys|HH|IOP)-[0-9]+)-T1",
    "participants": "participants.tsv",
}
SOURCES: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "folder": read_folder,
    "bids": read_bids,
    "table": list_table,
}


class CohortSection(Protocol):
    """What is read here of the section `cohort` of a config."""

    source: str
    embedded: Any
    ixi: Any


class Listing(NamedTuple):
    """How many scans a cohort has, as far as can be told before any job, and a digest that changes as they do."""

    n: int
    digest: str


def source_values(cohort: CohortSection) -> dict:
    """The source of a cohort section as its reader takes it, with root as a full path; IXI is read as a folder."""
    if cohort.source == "ixi":
        return {"source": "folder", "root": str(resolve(cohort.ixi.folder)), **IXI}
    section = getattr(cohort, cohort.source).model_dump(mode="json")
    return {"source": cohort.source, **section, "root": str(resolve(section["root"]))}


def list_scans(cohort: CohortSection) -> Listing:
    """The scans a cohort section speaks of, listed once.

    Those of IXI are what its archive is known to hold, since they may not be there yet; so are those of the embedded
    cohort. Files of a table are not looked for.

    Raises:
        SystemExit: If the source cannot be read as the section says, with the reason.
    """
    if cohort.source in ("embedded", "ixi"):
        n = cohort.embedded.n_participants if cohort.source == "embedded" else cohort.ixi.expected
        return Listing(n, _digest([str(number) for number in range(n)]))
    values = source_values(cohort)
    source, root = values.pop("source"), values["root"]
    if not os.path.isdir(root):
        raise SystemExit(f"cohort.{source}.root is {root}, which is no folder; set it to where your scans are")
    try:
        rows = SOURCES[source](**values)
    except ValueError as error:
        raise SystemExit(f"cohort.{source}: {error}") from error
    return Listing(sum(not row["problem"] for row in rows), _digest([as_json(**row) for row in rows]))


def n_shards(n_scans: int, scans_per_shard: int) -> int:
    """How many jobs handle so many scans, each about scans_per_shard of them."""
    return max(1, math.ceil(n_scans / scans_per_shard))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
