"""Scans in a BIDS folder: sub-*/[ses-*/]anat/*_T1w.nii.gz, and participants.tsv at its root.

All sessions, acquisitions and runs of a participant are scans of that participant.

References:
    The Brain Imaging Data Structure, https://bids-specification.readthedocs.io
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuromf.data.sources import demographics, values
from neuromf.data.sources.folder import file_problem, find_mask, printable, stem
from neuromf.data.sources.walk import find_scans

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
    """Rows of a participants table, one per scan of a BIDS folder.

    Arguments:
        root: Path of the BIDS folder.
        suffix: Suffix of the scans, such as T1w or FLAIR.
        datatype: Name of the folder of the scans below that of the subject or session.
        participants: Participants table relative to root; the default one of BIDS may be missing.
        columns: Column names of that table that are not participant_id, sex, age and site.
        masks: Path of the brain mask of a scan, relative to root, by {folder} (sub-01/ses-1/anat), {entities} (name of
            the scan without its suffix), {scan} (with it), {participant} and {session}, such as
            "derivatives/masks/{folder}/{entities}_desc-brain_mask.nii.gz".

    Raises:
        ValueError: If there is no such scan, or an argument is invalid.
    """
    root = Path(root)
    if not (files := _find(root, suffix, datatype)):
        raise ValueError(_nothing_found(root, suffix, datatype))
    rows = [_row(root, file, suffix, masks) for file in files]
    if participants == PARTICIPANTS and not (root / participants).exists():
        logger.warning("%s has no %s: sex, age and site of its participants are unknown", root, participants)
        participants = None
    return demographics.join_participants(rows, root, participants, columns)


def _find(root: Path, suffix: str, datatype: str) -> list[Path]:
    """Scans of a suffix, with and without sessions, sorted."""
    folders, ends = ("sub-*", "sub-*/ses-*"), ("nii", "nii.gz")
    return find_scans(root, *(f"{folder}/{datatype}/*_{suffix}.{end}" for folder in folders for end in ends))


def _nothing_found(root: Path, suffix: str, datatype: str) -> str:
    message = f"no scan in {root}: there is no sub-*/[ses-*/]{datatype}/*_{suffix}.nii[.gz]"
    found = Counter(stem(file.name).rpartition("_")[2] for file in _find(root, "*", datatype))
    if found:
        return f"{message}; correct suffix: there are {', '.join(f'{name} ({n})' for name, n in found.most_common(8))}"
    return f"{message}; correct root or datatype"


def _row(root: Path, file: Path, suffix: str, masks: str | None) -> dict[str, Any]:
    """The row of one file."""
    relative = file.relative_to(root).as_posix()
    scan, subject = stem(file.name), relative.split("/")[0]
    row = demographics.blank_row(scan, values.participant_id(subject), relative=relative, file=str(file))
    if problem := file_problem(file):
        return printable(row) | {"problem": problem}
    named, session = (re.search(rf"(?:^|_){key}-([^_]+)", scan) for key in ("sub", "ses"))
    if not named or f"sub-{named[1]}" != subject:
        return row | {"problem": f"name does not match: {relative} lies in {subject}, so it must begin with {subject}_"}
    fields = {"scan": scan, "entities": scan.removesuffix(f"_{suffix}"), "folder": str(Path(relative).parent)}
    fields |= {"participant": row["participant"], "session": session[1] if session else ""}
    return row | find_mask(root, masks, **fields)
