"""Scans from a BIDS folder: sub-*/[ses-*/]anat/*_T1w.nii.gz, and participants.tsv at its root.

All sessions, acquisitions and runs of a person are scans of that one person.

References:
    The Brain Imaging Data Structure, https://bids-specification.readthedocs.io
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuromf.data.sources.demographics import absent_row, blank_row, join_people, person_id, read_people
from neuromf.data.sources.folder import file_problem, find_mask, find_scans, printable, stem

logger = logging.getLogger(__name__)

PARTICIPANTS = "participants.tsv"


def read_bids(
    root: str | Path,
    *,
    suffix: str = "T1w",
    datatype: str = "anat",
    participants: str | None = PARTICIPANTS,
    columns: Mapping[str, str] | None = None,
    masks: str | None = None,
) -> list[dict[str, Any]]:
    """The rows of a BIDS folder.

    Arguments:
        suffix: What names of scans end in, such as T1w or FLAIR.
        datatype: Folder of the scans below that of the subject or session.
        participants: Table of people, relative to root; the one of this name in BIDS may be absent.
        columns: Names of its columns where they are not participant_id, sex, age and site.
        masks: Where the mask of a scan lies, relative to root, by {folder} (sub-01/ses-1/anat), {entities} (the
            name of the scan without its suffix), {scan} (with it), {person} and {session}, such as
            "derivatives/masks/{folder}/{entities}_desc-brain_mask.nii.gz".
    Raises:
        ValueError: If there is no such scan, or an argument cannot be used as it is.
    """
    root = Path(root)
    if not (files := _find(root, suffix, datatype)):
        raise ValueError(_nothing_found(root, suffix, datatype))
    rows = [_describe(root, file, suffix, masks) for file in files]
    if participants == PARTICIPANTS and not (root / participants).exists():
        logger.warning("%s has no %s: sex, age and site of its people are unknown", root, participants)
    elif participants:
        people = read_people(root / participants, columns)
        rows = join_people(rows, people, participants, lambda line: absent_row(line, participants))
    return [{name: value for name, value in row.items() if name != "relative"} for row in rows]


def _find(root: Path, suffix: str, datatype: str) -> list[Path]:
    """Scans of a suffix, with sessions and without, sorted."""
    return sorted(
        file
        for folder in ("sub-*", "sub-*/ses-*")
        for end in ("nii", "nii.gz")
        for file in find_scans(root, f"{folder}/{datatype}/*_{suffix}.{end}")
    )


def _nothing_found(root: Path, suffix: str, datatype: str) -> str:
    wanted = f"no scan in {root}: there is no sub-*/[ses-*/]{datatype}/*_{suffix}.nii[.gz]"
    found = Counter(stem(file.name).rpartition("_")[2] for file in _find(root, "*", datatype))
    if found:
        there = ", ".join(f"{name} ({n})" for name, n in found.most_common(8))
        return f"{wanted}; correct suffix: there are {there}"
    return f"{wanted}; correct root or datatype"


def _describe(root: Path, file: Path, suffix: str, masks: str | None) -> dict[str, Any]:
    """What the path of one scan says."""
    relative = file.relative_to(root).as_posix()
    scan, subject = stem(file.name), relative.split("/")[0]
    row = blank_row(scan, person_id(subject), relative=relative, file=str(file))
    if problem := file_problem(file):
        return printable(row) | {"problem": problem}
    named, session = (re.search(rf"(?:^|_){key}-([^_]+)", scan) for key in ("sub", "ses"))
    if not named or f"sub-{named[1]}" != subject:
        return row | {"problem": f"name does not match: {relative} lies in {subject}, so it must begin with {subject}_"}
    fields = {"scan": scan, "entities": scan.removesuffix(f"_{suffix}"), "folder": str(Path(relative).parent)}
    return row | find_mask(root, masks, **fields, person=row["person"], session=session[1] if session else "")
