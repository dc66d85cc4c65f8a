"""Participants tables: from the rows of a source to one tidy table with splits by participant.

One row per scan. `scan` is unique and safe as a file name, `participant` is without the "sub-" of BIDS, `age` is in
years, `site` is a name. All columns are text, "" where unknown, except age (NaN where unknown). A scan that the table
alone shows to be unusable has a `problem`, "kind: explanation"; its row stays, without a split, and the scan is
excluded later. No other column of a user's table is copied.
"""

import csv
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromf.core.files import atomic_write
from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import read_folder
from neuromf.data.sources.table import read_listed_scans

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

COLUMNS = ["scan", "participant", "file", "mask", "sex", "age", "site", "split", "problem"]
SPLITS = ("train", "val", "test")
LONGEST = 120  # characters of a scan id, which is a file name: most disks take 255 bytes
SOURCES: dict[str, Callable] = {"folder": read_folder, "bids": read_bids, "table": read_listed_scans}


def list_participants(source: str, *, split: Mapping[str, float], seed: int, **settings: Any) -> "pd.DataFrame":
    """The participants table of a study, with splits.

    Arguments:
        source: "folder", "bids" or "table"; or "embedded" for tables of simulated participants.
        split: Fraction of the participants per split, such as {"train": 0.8, "val": 0.1, "test": 0.1}.
        seed: Seed of the split.
        settings: Arguments of `read_folder`, `read_bids` or `read_listed_scans`; for "embedded": `tables`, paths of
            participants tables.

    Raises:
        ValueError: If the source has no scan, or a setting is invalid.
    """
    table = merge_tables(settings["tables"]) if source == "embedded" else tidy(SOURCES[source](**settings))
    table.insert(table.columns.get_loc("problem"), "split", split_by_participant(table, split, seed))
    usable = table[table["problem"] == ""]
    counts = ", ".join(f"{n} {name}" for name, n in usable["split"].value_counts().items())
    n, bad = usable["participant"].nunique(), len(table) - len(usable)
    logger.info("%d scans of %d participants (%s), %d more with a problem", len(usable), n, counts, bad)
    return table


def merge_tables(paths: Sequence[str | Path]) -> "pd.DataFrame":
    """One participants table from several tsv files, without splits; further columns are kept.

    Raises:
        ValueError: If there is no table or row, or a table lacks scan, participant or file.
    """
    rows = []
    for path in paths:
        table = read_table(path)
        if absent := [name for name in ("scan", "participant", "file") if name not in table]:
            raise ValueError(f"{path} lacks the columns {', '.join(absent)}; got {', '.join(table.columns)}")
        rows += table.drop(columns="split", errors="ignore").to_dict("records")
    if not rows:
        raise ValueError(f"no scan in the {len(paths)} tables of the cohort; each needs a row per scan")
    return tidy(rows)


def tidy(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """The table of these rows, without splits: unique scan ids, problems of repeated ids, columns in order."""
    import pandas as pd

    table = pd.DataFrame(rows)
    for name in COLUMNS:
        if name not in table and name != "split":
            table[name] = float("nan") if name == "age" else ""
    table["scan"], repeated = _unique_ids(table["scan"].tolist(), table["file"].tolist())
    text = table.columns.drop("age")
    table[text] = table[text].fillna("").astype(str)
    table["age"] = table["age"].astype(float)
    table["problem"] = [problem or again for problem, again in zip(table["problem"], repeated, strict=True)]
    order = [name for name in COLUMNS if name in table]
    return table[order + [name for name in table if name not in COLUMNS]]


def _unique_ids(names: Sequence[str], files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Unique ids that are safe as file names, and a problem for each name that occurred before."""
    first: dict[str, tuple[str, str]] = {}  # name -> its id and its file
    ids, taken = [], set()
    for name, file in zip(names, files, strict=True):
        if name in first:
            ids.append("")
            continue
        safe = _safe(name)
        safe = f"{safe}-{_digest(name)[:6]}" if safe in taken else safe
        first[name] = safe, file
        taken.add(safe)
        ids.append(safe)
    problems, numbers = [""] * len(ids), dict.fromkeys(first, 2)
    for k in (k for k, scan in enumerate(ids) if not scan):
        safe, file = first[names[k]]
        while (name := f"{safe}__{numbers[names[k]]}") in taken:
            numbers[names[k]] += 1
        ids[k] = name
        taken.add(name)
        problems[k] = f"duplicate scan id: {names[k]} is {files[k]}, first seen as {file}"
    return ids, problems


def _safe(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-") or "scan"
    return safe if len(safe) <= LONGEST else f"{safe[:LONGEST]}-{_digest(name)[:6]}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()


def split_by_participant(table: "pd.DataFrame", fractions: Mapping[str, float], seed: int) -> "pd.Series":
    """The split of each scan: all scans of a participant in one split, each site with the same fractions.

    Participants are sorted by site, and within a site by a hash of seed and participant. In this order, each one goes
    to the split that is furthest below its fraction. So the result does not depend on the order of rows, and counts
    differ from the fractions by about one participant. Scans with a problem have no split ("").

    Arguments:
        table: Participants table.
        fractions: Fraction of the participants per split, such as {"train": 0.8, "val": 0.1, "test": 0.1}. Each split
            above zero has a participant if there are enough of them.
        seed: Seed of the hash.
    """
    import pandas as pd

    wanted = _checked_fractions(fractions)
    usable = table[table["problem"] == ""]
    site = usable.groupby("participant")["site"].min()
    ordered = sorted(site.index, key=lambda name: (site[name], _digest(f"{seed}\0{name}")))
    split = _assign(ordered, wanted)
    for name in (name for name in wanted if name not in split.values() and len(ordered) >= len(wanted)):
        largest = max(wanted, key=list(split.values()).count)
        moved = min((p for p in ordered if split[p] == largest), key=lambda p: _digest(f"{seed}\0{p}"))
        split[moved] = name
    chosen = [split[p] if not bad else "" for p, bad in zip(table["participant"], table["problem"], strict=True)]
    return pd.Series(chosen, index=table.index, name="split", dtype="str")


def _assign(participants: Iterable[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """Assign each participant, in order, to the split that is furthest below its fraction."""
    split, counts = {}, dict.fromkeys(wanted, 0)
    for k, participant in enumerate(participants, start=1):
        name = max(wanted, key=lambda name: wanted[name] * k - counts[name])
        split[participant] = name
        counts[name] += 1
    return split


def subsample_training_participants(table: "pd.DataFrame", fraction: float) -> "pd.Series":
    """The splits (scan -> split) with a fraction of the training participants only, at least one; the others have "".

    The participants of a smaller fraction are among those of a larger one.
    """
    splits = table.set_index("scan")["split"]
    trained = table[table["split"] == "train"].set_index("scan")["participant"]
    ordered = sorted(set(trained), key=lambda name: _digest(f"share\0{name}"))
    kept = set(ordered[: max(1, round(fraction * len(ordered)))])
    return splits.where([scan not in trained.index or trained[scan] in kept for scan in splits.index], "")


def _checked_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    """Fractions above zero, in the order train, val, test."""
    valid = set(fractions) <= set(SPLITS) and all(fraction >= 0 for fraction in fractions.values())
    if not valid or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions must be of train, val and test, not negative, and sum to 1; got {dict(fractions)}")
    return {name: fractions[name] for name in SPLITS if fractions.get(name)}


def merge_qc(shards: Sequence[str | Path]) -> "pd.DataFrame":
    """One table from qc.tsv of each shard folder, sorted by scan, without duplicates; logs what is excluded, and why.

    Raises:
        ValueError: If no scan was accepted.
    """
    import pandas as pd

    table = pd.concat([read_table(Path(shard) / "qc.tsv") for shard in shards]).sort_values("scan")
    table = exclude_duplicates(table.reset_index(drop=True), volume="")
    accepted = table["status"] == "accepted"
    reasons = count_reasons(table)
    if not accepted.any():
        raise ValueError(
            f"none of {len(table)} scans can be used ({reasons}); "
            f"the column reason of {Path(shards[0]) / 'qc.tsv'} gives the reason of each scan"
        )
    log_origins(table)
    logger.info("%d accepted, %d excluded: %s", accepted.sum(), (~accepted).sum(), reasons)
    return table


def exclude_duplicates(table: "pd.DataFrame", **blank: str) -> "pd.DataFrame":
    """The table with each scan excluded whose prepared voxels are those of an accepted scan earlier by name.

    The splits of other scans stay: with the same content in two splits, the test set would not be independent.

    Arguments:
        table: Columns scan, status, reason, split and digest (of the voxels).
        blank: Further columns that an excluded scan has no value in, such as volume="".
    """
    if "digest" not in table:  # written before volumes had digests
        return table
    table = table.copy()
    candidates = table[(table["status"] == "accepted") & (table["digest"] != "")].sort_values("scan")
    first = candidates.groupby("digest")["scan"].first()
    for row in candidates[candidates.duplicated("digest")].index:
        reason = f"duplicate: same content as {first[table.loc[row, 'digest']]}; remove one of the two files"
        values = {"status": "quarantined", "reason": reason, "split": "", **blank}
        table.loc[row, list(values)] = list(values.values())
        logger.warning("%s excluded, %s", table.loc[row, "scan"], reason)
    return table


def count_reasons(table: "pd.DataFrame") -> str:
    """Excluded scans by kind of reason, as text; "none" if all are accepted."""
    kinds = table.loc[table["status"] != "accepted", "reason"].str.split(":").str[0].value_counts()
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"


def log_origins(table: "pd.DataFrame") -> None:
    """Log how many accepted scans have which origin of the foreground, and how many have a note."""
    accepted = table[table["status"] == "accepted"].reindex(columns=["stripped_by", "note"], fill_value="")
    names = {"already": "taken as skull-stripped already", "none": "whole heads", "mask": "with a brain mask"}
    counts = accepted.loc[accepted["stripped_by"] != "", "stripped_by"].value_counts()
    if len(counts):
        logger.info(
            "scans: %s", ", ".join(f"{n} {names.get(name, f'stripped by {name}')}" for name, n in counts.items())
        )
    for kind, n in accepted.loc[accepted["note"] != "", "note"].value_counts().head(5).items():
        logger.info("note of %d scans: %s", n, kind)


def read_table(path: str | Path) -> "pd.DataFrame":
    """A table from `write_table`: text, except age and coverage."""
    import pandas as pd

    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    for name in {"age", "coverage"} & set(table.columns):
        table[name] = pd.to_numeric(table[name], errors="coerce").astype(float)
    return table


def write_table(table: "pd.DataFrame", path: str | Path) -> None:
    """Write a tsv, atomically.

    Fields are quoted where needed, all of them if any holds a carriage return, which would end a row when read back.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = table.select_dtypes(exclude="number").astype(str)
    all_fields = any(text[name].str.contains("\r", regex=False).any() for name in text)
    quoting = csv.QUOTE_ALL if all_fields else csv.QUOTE_MINIMAL
    with atomic_write(path) as part:
        table.to_csv(part, sep="\t", index=False, lineterminator="\n", quoting=quoting)
