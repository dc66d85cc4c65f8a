r"""IXI: nearly 600 heads of healthy people from three London scanners; here the T1 scans and the table of people.

Scans are named `IXI012-HH-1211-T1.nii.gz`: person, hospital (Guys, HH, IOP), number. The table, IXI.xls, has a row per
person and oddities of its own: zeros for unknown, ages missing, people without a row, people with two rows that may
contradict each other. What is not known for sure is unknown here. Dates of birth are used where an age is missing, and
never leave this file. Ages are in years at the scan, to two digits.

References:
    IXI, https://brain-development.org/ixi-dataset/, CC BY-SA 3.0
"""

import datetime
import logging
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from neuromf.data import licences
from neuromf.data.archives import extract
from neuromf.data.download import FetchError, download, show_licence
from neuromf.data.participants import write_table

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SCAN = r"(?P<person>IXI\d{3})-(?P<site>Guys|HH|IOP)-\d+-T1\.nii\.gz"
BOUNDS = {"age": (10.0, 110.0), "height_cm": (120.0, 220.0), "weight_kg": (30.0, 250.0)}  # beyond them: unknown
COLUMNS = {"IXI_ID": "id", "SEX": "sex", "AGE": "age", "HEIGHT": "height_cm", "WEIGHT": "weight_kg"}  # by their starts
DATES = {"DOB": "born", "STUDY_DATE": "scanned"}  # only for ages that are missing
YEAR_DAYS = 365.25


def fetch(
    scans: str | Path,
    participants: str | Path,
    *,
    t1: str,
    demographics: str,
    t1_sha256: str | None = None,
    demographics_sha256: str | None = None,
    expected: int = 581,
) -> "pd.DataFrame":
    """Have the T1 scans in a folder and their people in a tsv, and give that table.

    The archive and the table of IXI are kept beside the folder. Where it already holds all scans expected, the archive
    is not needed, and not downloaded.

    Arguments:
        scans: Folder of the scans, absent or as this function left it.
        participants: The tsv: participant_id, sex, age, height_cm, weight_kg of everyone with a scan.
        t1: Address of IXI-T1.tar.
        demographics: Address of IXI.xls.
        t1_sha256: Digest that the archive must have.
        demographics_sha256: Digest that the table must have.
        expected: Scans that the archive should hold; another number is warned of.

    Raises:
        FetchError: If a file cannot be had or is another; the message says how to get it by hand.
    """
    scans, people = Path(scans), _beside(scans, demographics)
    show_licence(**licences.IXI)
    download(demographics, people, sha256=demographics_sha256)
    if scans.is_dir() and len(_names(scans)) >= expected:
        logger.info("%s holds %d scans: no archive is needed", scans, len(_names(scans)))
    else:
        archive = _beside(scans, t1)
        download(t1, archive, sha256=t1_sha256, room=2)
        extract(archive, scans, pattern=SCAN)
    if (found := len(_names(scans))) != expected:
        logger.warning("%s holds %d T1 scans, %d were expected", scans, found, expected)
    return _write_people(people, scans, participants)


def _write_people(people: Path, scans: Path, participants: str | Path) -> "pd.DataFrame":
    table = of_scans(demographics(people), _names(scans))
    write_table(table, participants)
    return table


def of_scans(people: "pd.DataFrame", names: list[str]) -> "pd.DataFrame":
    """A row for everyone with a scan, unknown where the table has none; people without a scan are left out."""
    persons = sorted({re.fullmatch(SCAN, name)["person"] for name in names})  # type: ignore[index]  # the source asked for SCAN
    table = people.set_index("participant_id").reindex(persons).rename_axis("participant_id").reset_index()
    table["sex"] = table["sex"].fillna("")
    absent = len(set(people["participant_id"]) - set(persons))
    unknown = (table.isna() | (table == "")).sum().drop("participant_id")
    counts = ", ".join(f"{name} of {n}" for name, n in unknown.items())
    logger.info("%d people with a T1 scan; unknown: %s. %d in the table have none", len(table), counts, absent)
    return table


def _names(scans: Path) -> list[str]:
    """Names of the T1 scans in a folder, sorted."""
    return sorted(path.name for path in scans.iterdir() if re.fullmatch(SCAN, path.name))


def _beside(scans: Path, url: str) -> Path:
    """Where the file of an address is kept."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name:
        raise FetchError(f"the address {url!r} names no file; it should end in one, such as .../IXI-T1.tar")
    return scans.parent / name


# --- the table of people -----------------------------------------------------------------------------


def demographics(path: str | Path) -> "pd.DataFrame":
    """People of IXI.xls (or of the same table as csv or tsv), one row each, sorted.

    Columns: participant_id (IXI012), sex (M, F, "" where unknown), age (years), height_cm and weight_kg (NaN where
    unknown, or beyond `BOUNDS`). Rows of one person are one: what agrees stays, what contradicts is unknown.

    Raises:
        ValueError: If the file is no such table; the message says what it lacks.
    """
    table = _cleaned(_renamed(_read(Path(path)), Path(path)))
    people, contradictions = _one_row_each(table)
    twice = int((table.groupby("participant_id").size() > 1).sum())
    if twice:
        named = "; ".join(f"{name} of {', '.join(who)}" for name, who in contradictions.items()) or "none"
        logger.warning("%s: %d people have several rows. Contradicting, so unknown: %s", Path(path).name, twice, named)
    people["age"] = people["age"].fillna(people.pop("computed"))
    return people


def _read(path: Path) -> "pd.DataFrame":
    """The sheet with a column IXI_ID."""
    import pandas as pd

    try:
        if path.suffix in (".csv", ".tsv"):
            return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", encoding="utf-8-sig")
        sheets = pd.read_excel(path, sheet_name=None)
    except Exception as error:  # each reader has errors of its own
        raise ValueError(
            f"{path} cannot be read as a table ({type(error).__name__}: {error}). Wanted is IXI.xls as IXI publishes "
            f"it; a web page saved under its name is not: remove it, and run again"
        ) from error
    for sheet in sheets.values():
        if any(str(column).strip().upper() == "IXI_ID" for column in sheet.columns):
            return sheet
    raise ValueError(f"{path} has no sheet with a column IXI_ID; its sheets are {', '.join(map(str, sheets))}")


def _renamed(raw: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    """The columns we know, under our names; sex as a letter, by the code that stands in the name of its column."""
    import pandas as pd

    found: dict[str, pd.Series] = {}
    for start, name in {**COLUMNS, **DATES}.items():
        match = [column for column in raw if str(column).strip().upper().startswith(start)]
        if not match and name not in DATES.values():
            raise ValueError(f"{path} lacks a column {start}...; it has {', '.join(map(str, raw.columns))}")
        found |= {match[0]: name} if match else {}
    table = raw[list(found)].rename(columns=found)
    sex = next(column for column, name in found.items() if name == "sex")
    codes = {int(code): letter.upper() for code, letter in re.findall(r"(\d)\s*=\s*([mf])", str(sex).lower())}
    return table.assign(sex=pd.to_numeric(table["sex"], errors="coerce").map(codes or {1: "M", 2: "F"}))


def _cleaned(raw: "pd.DataFrame") -> "pd.DataFrame":
    """Rows with a person, numbers within bounds, and the age that dates give where none is told."""
    import pandas as pd

    number = pd.to_numeric(raw["id"].astype(str).str.extract(r"^\s*(?:IXI)?0*(\d{1,3})(?:\.0)?\s*$")[0])
    if lost := int(number.isna().sum()):
        logger.warning("%d rows name no person and are left out", lost)
    table = pd.DataFrame({"participant_id": number.map("IXI{:03.0f}".format, na_action="ignore"), "sex": raw["sex"]})
    for name, bounds in BOUNDS.items():
        table[name] = _within(pd.to_numeric(raw[name], errors="coerce"), bounds).round(2)
    table["computed"] = _within(_age_from_dates(raw), BOUNDS["age"]).round(2)
    return table[number.notna()]


def _within(column: "pd.Series", bounds: tuple[float, float]) -> "pd.Series":
    return column.where(column.between(*bounds))


def _age_from_dates(raw: "pd.DataFrame") -> "pd.Series":
    """Years from birth to scan, NaN where a date is missing."""
    import pandas as pd

    if not set(DATES.values()) <= set(raw.columns):
        return pd.Series(float("nan"), index=raw.index)
    born, scanned = (pd.to_datetime(raw[name].map(_date), errors="coerce") for name in DATES.values())
    return (scanned - born).dt.days / YEAR_DAYS


def _date(value: object) -> str | None:
    """An ISO date; None for anything that could be read in more than one way."""
    if isinstance(value, datetime.date):  # also pandas' own
        return value.strftime("%Y-%m-%d") if value == value else None
    match = re.match(r"\d{4}-\d{2}-\d{2}(?!\d)", str(value).strip())
    return match[0] if match else None


def _one_row_each(table: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, list[str]]]:
    """One row per person, with what all rows that know it agree on, and who contradicts what."""
    people = table.groupby("participant_id", sort=True)
    several = people.nunique() > 1
    merged = people.first().mask(several)
    merged["computed"] = merged["computed"].where(people["age"].count() == 0)  # only where no row tells an age
    contradictions = {name: several.index[several[name]].tolist() for name in ("sex", *BOUNDS) if several[name].any()}
    merged["sex"] = merged["sex"].fillna("")
    return merged.reset_index(), contradictions
