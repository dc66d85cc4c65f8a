"""Who is in the study: a tidy participants table from a folder of scans, and splits by person.

One row per scan. `scan` is unique and safe as a file name, `person` never carries the "sub-" of BIDS,
`age` is in years, `site` a name; every column is text, and "" where unknown, except age (NaN where unknown).
What the table alone can tell to be wrong with a scan stands in `problem`, as "kind: what happened"; such a
row is kept, has no split, and is set aside later. No column of anyone's own table is copied but these.
"""

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

COLUMNS = ["scan", "person", "file", "mask", "sex", "age", "site", "split", "problem"]
SPLITS = ("train", "val", "test")
GROUPS = {"scan", "person", "site"}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown"}


def find_scans(root: str | Path, pattern: str) -> list[Path]:
    """Files under root that match a glob, sorted; links to nothing are kept, so that they can be reported."""
    return sorted(path for path in Path(root).glob(pattern) if not path.is_dir())


def read_folder(
    root: str | Path,
    pattern: str,
    scan_regex: str,
    participants: str | None = None,
    masks: str | None = None,
) -> "pd.DataFrame":
    r"""The participants table of any folder of NIfTI, without splits.

    Arguments:
        root: The folder; file and mask in the table start with it.
        pattern: A glob relative to root, such as "T1/*.nii.gz".
        scan_regex: Matched from the start of each file name, with named groups among scan, person and site,
            such as "(?P<scan>(?P<person>IXI\d+)-(?P<site>\w+)-\d+)". A scan is named after its file and a
            person after the scan where the group is absent.
        participants: A tsv or csv relative to root, with columns participant_id and/or file, and any of sex,
            age and site. It is joined on file (relative to root) where it has one, on the person elsewhere.
            Each of its rows without a scan becomes a row with a problem.
        masks: Where the mask of a scan lies, relative to root, such as "masks/{scan}-mask.nii.gz".
    Raises:
        ValueError: If no file matches, or an argument cannot be used as it is.
    """
    files = find_scans(root, pattern)
    if not files:
        raise ValueError(
            f'no scan in {root}: nothing matches the pattern "{pattern}"; '
            "correct root or pattern (** matches folders of any depth)"
        )
    regex = _compiled(scan_regex)
    rows = [_describe(Path(root), file.relative_to(root).as_posix(), regex, masks) for file in files]
    if participants:
        rows = _with_people(rows, Path(root), participants, regex, pattern)
    return _tidy(rows)


def _compiled(scan_regex: str) -> re.Pattern:
    try:
        regex = re.compile(scan_regex)
    except re.error as error:
        raise ValueError(f"scan_regex {scan_regex!r} is not a regular expression: {error}") from error
    if odd := sorted(regex.groupindex.keys() - GROUPS):
        raise ValueError(f"scan_regex has named groups {', '.join(odd)}; they must be among scan, person, site")
    return regex


def _describe(root: Path, relative: str, regex: re.Pattern, masks: str | None) -> dict[str, Any]:
    """What the name of one file says."""
    name = PurePosixPath(relative).name
    match = regex.match(name)
    groups = {key: value for key, value in (match.groupdict() if match else {}).items() if value}
    scan = groups.get("scan", re.sub(r"\.nii(\.gz)?$", "", name))
    person = groups.get("person", scan).removeprefix("sub-")
    row = {"scan": scan, "person": person, "site": groups.get("site", ""), "relative": relative}
    row |= {"file": str(root / relative), "mask": "", "sex": "", "age": float("nan"), "problem": ""}
    if match is None:
        return row | {"problem": f"name does not match: {name} does not match scan_regex {regex.pattern!r}"}
    if not (root / relative).exists():
        return row | {"problem": f"missing file: {row['file']} is a link to nothing"}
    return row | _mask(root, masks, scan=scan, person=groups.get("person", scan), site=row["site"])


def _mask(root: Path, masks: str | None, **groups: str) -> dict[str, str]:
    if not masks:
        return {}
    try:
        path = root / masks.format(**groups)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f'masks "{masks}" may name {{scan}}, {{person}} and {{site}} only: {error!r}') from error
    return {"mask": str(path), "problem": "" if path.exists() else f"missing mask: {path} does not exist"}


def _with_people(
    rows: list[dict], root: Path, participants: str, regex: re.Pattern, pattern: str
) -> list[dict[str, Any]]:
    """Rows with sex, age and site of their people, and one more row per line of the table without a scan."""
    people = _read_people(root / participants)
    on = "file" if "file" in people[0] else "person"
    known: dict[str, dict] = {}
    for line in people:
        known.setdefault(_key(line, on), line)
    if len(known) < len(people):
        logger.warning("%s: %d rows repeat an earlier %s, left out", participants, len(people) - len(known), on)
    column = "relative" if on == "file" else "person"
    joined = [row | known.get(_normal(row[column]), {}) | {"file": row["file"]} for row in rows]
    seen = {_normal(row[column]) for row in rows}
    absent = [line for key, line in known.items() if key not in seen]
    return joined + [_absent(line, root, participants, regex, pattern) for line in absent]


def _absent(line: dict, root: Path, participants: str, regex: re.Pattern, pattern: str) -> dict[str, Any]:
    """The row of someone in the participants table of whom no scan was found."""
    who = line.get("person", "")
    if not line.get("file"):
        row = _describe(root, who or "unnamed", regex, None)
        problem = f"missing file: {participants} lists {who or 'a row without a name'}, but there is no such scan"
        return row | {"scan": who or "unnamed"} | line | {"file": "", "problem": problem}
    row = _describe(root, line["file"], regex, None)
    if Path(row["file"]).exists():
        problem = f'not in the pattern: {participants} lists {line["file"]}, which "{pattern}" does not match'
    else:
        problem = f"missing file: {row['file']} does not exist, but {participants} lists it"
    return row | line | {"file": row["file"], "problem": problem}


def _read_people(path: Path) -> list[dict[str, Any]]:
    """Lines of a table of people: what is known of person, file, sex, age, site, and nothing else."""
    import pandas as pd

    if not path.is_file():
        raise ValueError(f"participants table {path} does not exist; correct the key, or leave it out")
    table = _read_text(path, "," if path.suffix == ".csv" else "\t")
    table.columns = [column.strip().lower() for column in table.columns]
    if not {"participant_id", "file"} & set(table.columns) or table.empty:
        raise ValueError(
            f"participants table {path} needs a row and a column participant_id or file; "
            f"got {len(table)} rows with columns {', '.join(table.columns)}"
        )
    table = table.rename(columns={"participant_id": "person"})
    table = table[[name for name in ("person", "file", "sex", "age", "site") if name in table]]
    table = table.apply(lambda column: column.str.strip().where(~column.str.strip().str.lower().isin(UNKNOWN), ""))
    if "person" in table:
        table["person"] = table["person"].str.removeprefix("sub-")
    if "sex" in table:
        table["sex"] = table["sex"].str.lower().map(SEXES).fillna("")
    if "age" in table:
        age = pd.to_numeric(table["age"], errors="coerce")
        table["age"] = age.where(age.between(0, 120, inclusive="neither"))
    always = {"file"} & set(table.columns)
    lines = table.to_dict("records")
    return [{k: v for k, v in line.items() if k in always or (v != "" and v == v)} for line in lines]


def _key(line: dict, on: str) -> str:
    """What a line is joined on; a line without a file stands for itself."""
    value = line.get(on, "")
    return _normal(value) if value else f"\0{line.get('person', '')}"


def _normal(text: str) -> str:
    """The same characters for the same path, whichever system wrote it."""
    return unicodedata.normalize("NFC", str(PurePosixPath(text)))


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
    return _tidy(rows)


def _tidy(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """The table of these rows: unique ids, problems where an id came twice, columns in order."""
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
    return table[order + [name for name in table if name not in {*COLUMNS, "relative"}]]


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
    problems = [""] * len(ids)
    for k in (k for k, scan in enumerate(ids) if not scan):
        safe, file = first[names[k]]
        ids[k] = next(name for n in range(2, len(ids) + 2) if (name := f"{safe}__{n}") not in taken)
        taken.add(ids[k])
        problems[k] = f"duplicate scan id: {names[k]} is {files[k]}, first seen as {file}"
    return ids, problems


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-") or "scan"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()


def split_by_person(table: "pd.DataFrame", shares: Mapping[str, float], seed: int) -> "pd.Series":
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
        table.to_csv(part, sep="\t", index=False, lineterminator="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
