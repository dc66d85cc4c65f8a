"""Who is in the study: a tidy participants table from the rows of a source, and splits by person.

One row per scan. `scan` is unique and safe as a file name, `person` never carries the "sub-" of BIDS,
`age` is in years, `site` a name; every column is text, and "" where unknown, except age (NaN where unknown).
What the table alone can tell to be wrong with a scan stands in `problem`, as "kind: what happened"; such a
row is kept, has no split, and is set aside later. No column of anyone's own table is copied but these.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["scan", "person", "file", "mask", "sex", "age", "site", "split", "problem"]
SPLITS = ("train", "val", "test")
LONGEST = 120  # characters of an id, which is a file name: 255 bytes is what most disks take


def merge_tables(paths: Sequence[str | Path]) -> "pd.DataFrame":
    """One participants table from several (tsv), without splits; columns beyond the usual ones are kept.

    Raises:
        ValueError: If there is no table or row, or a table lacks one of scan, person and file.
    """
    rows = []
    for path in paths:
        table = read_table(path)
        if absent := [name for name in ("scan", "person", "file") if name not in table]:
            raise ValueError(f"{path} lacks the columns {', '.join(absent)}; got {', '.join(table.columns)}")
        rows += table.drop(columns="split", errors="ignore").to_dict("records")
    if not rows:
        raise ValueError(f"no scan in the {len(paths)} tables of the cohort; each needs a row per scan")
    return tidy(rows)


def tidy(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """The table of these rows, without splits: unique ids, problems where an id came twice, columns in order."""
    import pandas as pd

    table = pd.DataFrame(rows)
    for name in COLUMNS:
        if name not in table and name != "split":
            table[name] = float("nan") if name == "age" else ""
    table["scan"], twice = _unique(table["scan"].tolist(), table["file"].tolist())
    text = table.columns.drop("age")
    table[text] = table[text].fillna("").astype(str)
    table["age"] = table["age"].astype(float)
    table["problem"] = [problem or again for problem, again in zip(table["problem"], twice, strict=True)]
    order = [name for name in COLUMNS if name in table]
    return table[order + [name for name in table if name not in COLUMNS]]


def _unique(names: Sequence[str], files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ids safe as file names, one per scan, and for each name that came before a sentence that says so."""
    first: dict[str, tuple[str, str]] = {}  # name -> its id, and the file that has it
    ids, taken = [], set()
    for name, file in zip(names, files, strict=True):
        safe = _safe(name)
        if name not in first:
            safe = f"{safe}-{_digest(name)[:6]}" if safe in taken else safe
            first[name] = safe, file
            taken.add(safe)
            ids.append(safe)
        else:
            ids.append("")
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


def split_by_participant(table: "pd.DataFrame", shares: Mapping[str, float], seed: int) -> "pd.Series":
    """The split of each scan: all scans of a person in the same one, each site shared out alike.

    People stand in a line, site by site, within a site in the order of a hash of seed and person; each in turn
    goes to the split that is furthest behind its share. So the order of rows does not matter, and counts are
    within about one person of what the shares ask. Rows with a problem get "".

    Arguments:
        shares: Share of the people per split, such as {"train": 0.8, "val": 0.1, "test": 0.1}. Each share
            above zero gets someone, where there are people enough.
    """
    import pandas as pd

    wanted = _checked_shares(shares)
    fine = table[table["problem"] == ""]
    site = fine.groupby("person")["site"].min()
    line = sorted(site.index, key=lambda person: (site[person], _digest(f"{seed}\0{person}")))
    split = _share_out(line, wanted)
    for name in (name for name in wanted if name not in split.values() and len(line) >= len(wanted)):
        largest = max(wanted, key=list(split.values()).count)
        given = min((p for p in line if split[p] == largest), key=lambda p: _digest(f"{seed}\0{p}"))
        split[given] = name
    chosen = [split[p] if not bad else "" for p, bad in zip(table["person"], table["problem"], strict=True)]
    return pd.Series(chosen, index=table.index, name="split", dtype="str")


def _share_out(line: Iterable[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """Each in line to the split that is furthest behind its share so far."""
    split, counts = {}, dict.fromkeys(wanted, 0)
    for k, person in enumerate(line, start=1):
        name = max(wanted, key=lambda name: wanted[name] * k - counts[name])
        split[person] = name
        counts[name] += 1
    return split


def subsample_training_participants(table: "pd.DataFrame", share: float) -> "pd.Series":
    """Splits of the scans (scan -> split) when only a share of the training people is trained on, at least one.

    The people of a smaller share are among those of a larger one; the others have the split "".
    """
    splits = table.set_index("scan")["split"]
    people = table[table["split"] == "train"].set_index("scan")["person"]
    line = sorted(set(people), key=lambda person: _digest(f"share\0{person}"))
    kept = set(line[: max(1, round(share * len(line)))])
    return splits.where([scan not in people.index or people[scan] in kept for scan in splits.index], "")


def _checked_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares above zero, in the order train, val, test."""
    right = set(shares) <= set(SPLITS) and all(share >= 0 for share in shares.values())
    if not right or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares must be of train, val and test, not negative, and sum to 1; got {dict(shares)}")
    return {name: shares[name] for name in SPLITS if shares.get(name)}


def read_table(path: str | Path) -> "pd.DataFrame":
    """A table as written by write_table: text, except age and coverage."""
    import pandas as pd

    table = _read_text(path, "\t")
    for name in {"age", "coverage"} & set(table.columns):
        table[name] = pd.to_numeric(table[name], errors="coerce").astype(float)
    return table


def _read_text(path: str | Path, sep: str) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(path, sep=sep, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def write_table(table: "pd.DataFrame", path: str | Path) -> None:
    """Write a tsv whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        table.to_csv(part, sep="\t", index=False, lineterminator="\n", quoting=_quoting(table))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _quoting(table: "pd.DataFrame") -> int:
    """Quotes where needed; around all fields if any holds a carriage return, which would end a row when read back."""
    text = table.select_dtypes(exclude="number").astype(str)
    odd = any(text[name].str.contains("\r", regex=False).any() for name in text)
    return csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
