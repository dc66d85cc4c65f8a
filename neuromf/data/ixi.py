r"""IXI: nearly 600 brains of healthy volunteers from three London scanners; here the T1 scans and the demographics.

Scans are named `IXI012-HH-1211-T1.nii.gz`: participant, hospital (Guys, HH, IOP), number. IXI.xls has zeros for unknown
values, missing ages, participants without a row, and participants with contradicting rows. Uncertain values become
unknown. Dates of birth replace missing ages and are never written. Ages are in years at the scan, to two digits.

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

SCAN = r"(?P<participant>IXI\d{3})-(?P<site>Guys|HH|IOP)-\d+-T1\.nii\.gz"
BOUNDS = {"age": (10.0, 110.0), "height_cm": (120.0, 220.0), "weight_kg": (30.0, 250.0)}  # values outside are unknown
COLUMNS = {"IXI_ID": "id", "SEX": "sex", "AGE": "age", "HEIGHT": "height_cm", "WEIGHT": "weight_kg"}  # by prefix
DATES = {"DOB": "born", "STUDY_DATE": "scanned"}  # only for missing ages
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
    """Download the T1 scans and the demographics of IXI; write and return the participants table.

    The archive and IXI.xls are kept in the parent of the folder of scans. If that folder holds all expected scans, the
    archive is not downloaded.

    Arguments:
        scans: Folder of the scans, missing or from an earlier call.
        participants: Output tsv: participant_id, sex, age, height_cm, weight_kg of every participant with a scan.
        t1: Address of IXI-T1.tar.
        demographics: Address of IXI.xls.
        t1_sha256: Expected SHA-256 of the archive.
        demographics_sha256: Expected SHA-256 of IXI.xls.
        expected: Expected number of scans; another number gives a warning.

    Raises:
        FetchError: If a file cannot be downloaded or has another digest.
        ValueError: If IXI.xls is not that table.
    """
    scans, workbook = Path(scans), _path_beside(scans, demographics)
    show_licence(**licences.IXI)
    download(demographics, workbook, sha256=demographics_sha256)
    if scans.is_dir() and len(_scan_names(scans)) >= expected:
        logger.info("%s holds %d scans: the archive is not needed", scans, len(_scan_names(scans)))
    else:
        archive = _path_beside(scans, t1)
        download(t1, archive, sha256=t1_sha256, space_factor=2)
        extract(archive, scans, pattern=SCAN)
    names = _scan_names(scans)
    if len(names) != expected:
        logger.warning("%s holds %d T1 scans, expected %d", scans, len(names), expected)
    table = participants_of_scans(read_demographics(workbook), names)
    write_table(table, participants)
    return table


def participants_of_scans(demographics: "pd.DataFrame", names: list[str]) -> "pd.DataFrame":
    """One row per participant with a scan, unknown values if the table has no row; other rows are dropped.

    Arguments:
        demographics: Table from `read_demographics`.
        names: File names of the scans.
    """
    scanned = sorted({re.fullmatch(SCAN, name)["participant"] for name in names})  # type: ignore[index]  # names match
    table = demographics.set_index("participant_id").reindex(scanned).rename_axis("participant_id").reset_index()
    table["sex"] = table["sex"].fillna("")
    unscanned = len(set(demographics["participant_id"]) - set(scanned))
    unknown = (table.isna() | (table == "")).sum().drop("participant_id")
    counts = ", ".join(f"{name} of {n}" for name, n in unknown.items())
    logger.info("%d participants with a T1 scan; unknown: %s. %d without a scan", len(table), counts, unscanned)
    return table


def _scan_names(scans: Path) -> list[str]:
    """File names of the T1 scans in a folder, sorted."""
    return sorted(path.name for path in scans.iterdir() if re.fullmatch(SCAN, path.name))


def _path_beside(scans: Path, url: str) -> Path:
    """Path of a downloaded file, beside the folder of scans."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name:
        raise FetchError(f"the address {url!r} names no file; it should end in one, such as .../IXI-T1.tar")
    return scans.parent / name


def read_demographics(path: str | Path) -> "pd.DataFrame":
    """The demographics in IXI.xls (or the same table as csv or tsv), one row per participant, sorted.

    Columns: participant_id (IXI012), sex (M, F, "" if unknown), age (years), height_cm and weight_kg (NaN if unknown or
    outside `BOUNDS`). Several rows of a participant are merged; contradicting values become unknown.

    Raises:
        ValueError: If the file is not that table.
    """
    path = Path(path)
    table = _clean(_rename(_read(path), path))
    merged, contradictions = _merge_rows(table)
    repeated = int((table.groupby("participant_id").size() > 1).sum())
    if repeated:
        listed = "; ".join(f"{name} of {', '.join(who)}" for name, who in contradictions.items()) or "none"
        logger.warning(
            "%s: %d participants have several rows. Contradicting, so unknown: %s", path.name, repeated, listed
        )
    merged["age"] = merged["age"].fillna(merged.pop("computed"))
    return merged


def _read(path: Path) -> "pd.DataFrame":
    """The sheet with a column IXI_ID."""
    import pandas as pd

    try:
        if path.suffix in (".csv", ".tsv"):
            return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", encoding="utf-8-sig")
        sheets = pd.read_excel(path, sheet_name=None)
    except Exception as error:  # each reader has its own errors
        raise ValueError(
            f"{path} cannot be read as a table ({type(error).__name__}: {error}). Expected is IXI.xls as IXI publishes "
            f"it; a web page saved under its name is not: remove it, and run again"
        ) from error
    for sheet in sheets.values():
        if any(str(column).strip().upper() == "IXI_ID" for column in sheet.columns):
            return sheet
    raise ValueError(f"{path} has no sheet with a column IXI_ID; its sheets are {', '.join(map(str, sheets))}")


def _rename(raw: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    """The columns in use, under our names; sex as a letter, by the code in the name of its column."""
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


def _clean(raw: "pd.DataFrame") -> "pd.DataFrame":
    """Rows with a participant, values within bounds, and `computed`, the age from the dates."""
    import pandas as pd

    number = pd.to_numeric(raw["id"].astype(str).str.extract(r"^\s*(?:IXI)?0*(\d{1,3})(?:\.0)?\s*$")[0])
    if lost := int(number.isna().sum()):
        logger.warning("%d rows without a participant are ignored", lost)
    table = pd.DataFrame({"participant_id": number.map("IXI{:03.0f}".format, na_action="ignore"), "sex": raw["sex"]})
    values = {name: pd.to_numeric(raw[name], errors="coerce") for name in BOUNDS}
    for name, column in {**values, "computed": _age_from_dates(raw)}.items():
        table[name] = column.where(column.between(*BOUNDS.get(name, BOUNDS["age"]))).round(2)
    return table[number.notna()]


def _age_from_dates(raw: "pd.DataFrame") -> "pd.Series":
    """Years from birth to scan, NaN where a date is missing."""
    import pandas as pd

    if not set(DATES.values()) <= set(raw.columns):
        return pd.Series(float("nan"), index=raw.index)
    born, scanned = (pd.to_datetime(raw[name].map(_iso_date), errors="coerce") for name in DATES.values())
    return (scanned - born).dt.days / YEAR_DAYS


def _iso_date(value: object) -> str | None:
    """An ISO date; None for an ambiguous value."""
    if isinstance(value, datetime.date):  # includes the timestamps of pandas
        return value.strftime("%Y-%m-%d") if value == value else None
    match = re.match(r"\d{4}-\d{2}-\d{2}(?!\d)", str(value).strip())
    return match[0] if match else None


def _merge_rows(table: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, list[str]]]:
    """One row per participant, without contradicting values, and the participants with contradictions by column."""
    rows = table.groupby("participant_id", sort=True)
    several = rows.nunique() > 1
    merged = rows.first().mask(several)
    merged["computed"] = merged["computed"].where(rows["age"].count() == 0)  # only if no row has an age
    contradictions = {name: several.index[several[name]].tolist() for name in ("sex", *BOUNDS) if several[name].any()}
    merged["sex"] = merged["sex"].fillna("")
    return merged.reset_index(), contradictions
