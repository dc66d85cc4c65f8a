"""Cells of participants tables: age, sex and ids in many spellings. What is ambiguous is unknown, with a warning."""

import json
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

MALE = {"m", "male", "man", "boy", "männlich", "mann", "masculine", "homme"}
FEMALE = {"f", "female", "woman", "girl", "w", "weiblich", "frau", "feminine", "femme"}
SEXES = dict.fromkeys(MALE, "M") | dict.fromkeys(FEMALE, "F")
UNKNOWN = {"", "n/a", "na", "nan", "none", "unknown", "null", "-", "--", ".", "?", "#n/a"}
PER_YEAR = {"y": 1.0, "m": 12.0, "w": 365.25 / 7, "d": 365.25}  # units by their first letter
UNITS = {"y": {"y", "yr", "yrs", "year", "years", "yo", "j", "jahre"}, "m": {"mo", "mos", "month", "months"},
         "w": {"w", "wk", "wks", "week", "weeks"}, "d": {"d", "day", "days"}}  # fmt: skip
AGE = re.compile(r"(\d+(?:[.,]\d+)?)\s*\+?\s*([a-zäöü]*)\.?")
MONTHS_OF_DICOM = re.compile(r"\d{3}m")  # elsewhere, m may be months or male
MAX_AGE = 120


class Meaning(NamedTuple):
    """What participants.json of BIDS says about a table: the unit of ages, and the words for codes of sex."""

    age_unit: str = "y"
    sexes: Mapping[str, str] = {}


IN_YEARS = Meaning()


def participant_id(text: str) -> str:
    """Participant id in one Unicode form, without the "sub-" of BIDS."""
    return unicodedata.normalize("NFC", known_or_empty(text)).removeprefix("sub-")


def loose_id(text: str) -> str:
    """An id without capitals, leading zeros and the ".0" of a spreadsheet, which differ between tables and disks."""
    text = re.sub(r"^(\d+)\.0+$", r"\1", text.lower().removeprefix("sub-"))
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", text)


def known_or_empty(text: str) -> str:
    """The text, or "" if it stands for an unknown value."""
    return "" if text.lower() in UNKNOWN else text


def parse_sex(text: str, meaning: Meaning = IN_YEARS) -> str:
    """M, F, or "" if unknown or ambiguous, such as a number without a meaning."""
    word = text.strip(" ,;.").lower()
    return SEXES.get(meaning.sexes.get(word, word), "")


def parse_age(text: str, meaning: Meaning = IN_YEARS) -> float:
    """Age in years; NaN if it is no number between 0 and 120, such as a range.

    Read are decimal commas, units (34 yrs, 18 months, 034Y of DICOM), and 89+ as 89, the convention of BIDS.
    """
    text = text.strip(" ,;").lower()
    text = f"{text[:-1]} months" if MONTHS_OF_DICOM.fullmatch(text) else text
    found = AGE.fullmatch(text)
    unit = (_unit(found[2]) if found[2] else meaning.age_unit) if found else ""
    if not found or not unit:
        return math.nan
    age = float(found[1].replace(",", ".")) / PER_YEAR[unit]
    return age if 0 < age < MAX_AGE else math.nan


def _unit(word: str) -> str:
    """First letter of a unit of time; "" if the word is none."""
    return next((letter for letter, words in UNITS.items() if word in words), "")


def read_meaning(table: Path, columns: Mapping[str, str]) -> Meaning:
    """The meaning of a table by the JSON file of its name, as participants.json of BIDS; the default one if missing.

    Arguments:
        table: Path of the table.
        columns: Names of its columns age and sex.
    """
    path = table.with_suffix(".json")
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        return IN_YEARS
    except ValueError as error:
        logger.warning("%s cannot be read as JSON and is ignored: %s", path, error)
        return IN_YEARS
    age, sex = (_entry(facts, columns.get(name, "")) for name in ("age", "sex"))
    word = str(age.get("Units", "")).strip().lower()
    if word and not _unit(word):
        logger.warning("%s: the unit %r of ages is unknown; ages are read in years", path, word)
    levels = sex.get("Levels")
    words = {code: _word(text) for code, text in levels.items()} if isinstance(levels, dict) else {}
    return Meaning(_unit(word) or "y", {code.lower(): text for code, text in words.items()})


def _word(level: object) -> str:
    """The text of a level, which is text or has a Description."""
    return str(level.get("Description", "") if isinstance(level, dict) else level).strip().lower()


def _entry(facts: object, name: str) -> dict:
    entry = facts.get(name) if isinstance(facts, dict) else None
    return entry if isinstance(entry, dict) else {}


def warn_unread(name: str, column: str, cells: Iterable[str], values: Iterable[str | float]) -> None:
    """Warn of cells that have a value which could not be read, with their number and the most frequent ones.

    Arguments:
        name: Name of the table.
        column: age or sex.
        cells: Cells of the table.
        values: What was read from each cell; "" and NaN are unknown.
    """
    pairs = zip(cells, values, strict=True)
    unread = [cell for cell, value in pairs if known_or_empty(cell) and (value == "" or value != value)]
    if unread:
        examples = ", ".join(f"{cell!r} ({n})" for cell, n in Counter(unread).most_common(3))
        wanted = {"age": "a number of years", "sex": "M or F, or codes with Levels in the JSON file of the table"}
        text = "%s: %d values of %s cannot be read and are unknown: %s; write %s"
        logger.warning(text, name, len(unread), column, examples, wanted[column])
