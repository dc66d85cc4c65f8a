"""Subjects with several MRI contrasts and a tumour segmentation, in BraTS-style folders: index and checks.

A subject is a dict of paths by modality and "seg", with "id" and "patient". The order of modalities is that of the
channels of every image; it is written into every artefact and compared when the artefact is read. Labels are those of
BraTS: 0 background, 1 necrotic core, 2 oedema, 3 enhancing; mass = {1, 3}. A subject that cannot be used has one row
with the reason and is never trained on.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuromf.core.parallel import map_in_threads
from neuromf.data.scans import format_shape, quarantine_reason, read_image, read_scan

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MODALITIES = ["t1c", "t1n", "t2f", "t2w"]
SEG = "seg"
LABELS = {0: 0, 1: 1, 2: 2, 3: 3}
MASS, OEDEMA = (1, 3), (2,)
PATIENT = r"(.+?)(?:-\d{3})?"  # BraTS-MEN-00004-001 is a scan of patient BraTS-MEN-00004
MAX_OFFSET_MM = 0.01  # difference of voxel-to-world matrices that counts as the same grid

Subject = dict[str, str]


def check_modality_order(expected: Sequence[str], found: Sequence[str], source: str = "this artefact") -> None:
    """Raise ValueError if the modalities of an artefact are not those of the config in the same order."""
    if list(expected) != list(found):
        raise ValueError(
            f"modality order of {source} is {list(found)}, the config has {list(expected)}; channels would be swapped: "
            "set data.modalities to the order of the artefact, or make it again"
        )


def full_label_map(label_map: Mapping[int, int] | None) -> dict[int, int]:
    """BraTS labels 0 to 3 and the further codes of `label_map`, such as {4: 3} for older BraTS files.

    Raises:
        ValueError: If a code is mapped to no label.
    """
    labels = LABELS | {int(code): int(label) for code, label in (label_map or {}).items()}
    if wrong := sorted(set(labels.values()) - set(LABELS.values())):
        raise ValueError(f"data.label_map must map to the labels 0, 1, 2 and 3; got {wrong}")
    return labels


def map_labels(labels: NDArray, label_map: Mapping[int, int] | None) -> NDArray:
    """Label codes, any shape, as BraTS labels, uint8.

    Raises:
        ValueError: If a code is not an integer of the map.
    """
    known = full_label_map(label_map)
    codes = np.unique(labels)
    if unknown := [f"{code:g}" for code in codes if float(code) not in known]:
        raise ValueError(f"unknown label: {', '.join(unknown[:5])} is not in data.label_map, which has {sorted(known)}")
    result = np.zeros(np.shape(labels), np.uint8)
    for code in codes:
        result[labels == code] = known[int(code)]
    return result


# --- index -------------------------------------------------------------------------------------------


def index_subjects(
    root_dir: str | Path,
    modalities: Sequence[str] = MODALITIES,
    *,
    suffixes: Mapping[str, str] | None = None,
    patient_regex: str = PATIENT,
) -> tuple[list[Subject], dict[str, str]]:
    """Subjects of a folder, sorted by id, and the reason for each folder that is no complete subject, by its name.

    Arguments:
        root_dir: Folder with one folder per subject.
        modalities: Modalities in the order of channels.
        suffixes: End of the file name of each modality and of "seg", where it is not -{modality}.nii.gz.
        patient_regex: Regular expression of the id, whose first group is the patient.

    Raises:
        ValueError: If the folder does not exist, or a modality is named twice.
    """
    ends = file_ends(modalities, suffixes)
    if not Path(root_dir).is_dir():
        raise ValueError(f"data.root_dir is {root_dir}, which is no folder; set it to the folder of your subjects")
    subjects, excluded = [], {}
    for folder in sorted(path for path in Path(root_dir).iterdir() if path.is_dir()):
        found = {key: sorted(path for path in folder.iterdir() if path.name.endswith(end)) for key, end in ends.items()}
        if reason := _count_problem(found, ends):
            logger.warning("%s excluded, %s", folder.name, reason)
            excluded[folder.name] = reason
            continue
        match = re.fullmatch(patient_regex, folder.name)
        patient = match[1] if match else folder.name
        paths = {key: str(files[0]) for key, files in found.items()}
        subjects.append({"id": folder.name, "patient": patient, **paths})
    return subjects, excluded


def file_ends(modalities: Sequence[str], suffixes: Mapping[str, str] | None = None) -> dict[str, str]:
    """End of the file names of each modality and of the segmentation."""
    if len(set(modalities)) != len(modalities) or SEG in modalities:
        raise ValueError(f"data.modalities must be different names without {SEG}; got {list(modalities)}")
    return {key: (suffixes or {}).get(key, f"-{key}.nii.gz") for key in [*modalities, SEG]}


def _count_problem(found: Mapping[str, Sequence[Path]], ends: Mapping[str, str]) -> str:
    """The reason why files of a folder are no subject, or ""."""
    if absent := [f"*{ends[key]}" for key, files in found.items() if not files]:
        return f"missing file: no {', '.join(absent)}"
    if several := [f"{len(files)} of *{ends[key]}" for key, files in found.items() if len(files) > 1]:
        return f"several files: {', '.join(several)}; leave one"
    return ""


# --- checks ------------------------------------------------------------------------------------------


def subject_problem(
    subject: Subject,
    modalities: Sequence[str] = MODALITIES,
    *,
    suffixes: Mapping[str, str] | None = None,
    label_map: Mapping[int, int] | None = None,
) -> str:
    """The reason why a subject cannot be used, or "".

    Every file is read: see `neuromf.data.scans` for the checks of each. All files must have one grid, names must match
    their modality, and labels must be in the label map.
    """
    ends = file_ends(modalities, suffixes)
    if wrong := [key for key, end in ends.items() if not subject[key].endswith(end)]:
        names = ", ".join(f"{key} is {Path(subject[key]).name}" for key in wrong)
        return f"modality order: {names}, expected names that end in {', '.join(ends[key] for key in wrong)}"
    try:
        images = {key: read_scan(subject[key]) for key in modalities}
        images[SEG] = read_image(subject[SEG])
        map_labels(np.asarray(images[SEG].dataobj), label_map)
    except Exception as error:
        return str(error) if isinstance(error, ValueError) else quarantine_reason(error)
    first = images[modalities[0]]
    for key, image in images.items():
        if image.shape != first.shape or np.abs(image.affine - first.affine).max() > MAX_OFFSET_MM:
            shapes = f"{format_shape(image.shape)} voxels against {format_shape(first.shape)}"
            return f"another grid: {key} has not the grid of {modalities[0]} ({shapes}); resample it"
    return ""


def usable_subjects(
    root_dir: str | Path,
    modalities: Sequence[str] = MODALITIES,
    *,
    suffixes: Mapping[str, str] | None = None,
    patient_regex: str = PATIENT,
    label_map: Mapping[int, int] | None = None,
) -> tuple[list[Subject], "pd.DataFrame"]:
    """Subjects that can be used, and a table with status and reason of every folder.

    Raises:
        ValueError: If no subject can be used.
    """
    import pandas as pd

    full_label_map(label_map)
    found, reasons = index_subjects(root_dir, modalities, suffixes=suffixes, patient_regex=patient_regex)
    names: dict[str, Any] = {"suffixes": suffixes, "label_map": label_map}
    checked = map_in_threads(lambda one: subject_problem(one, modalities, **names), found)
    for one, reason in zip(found, checked, strict=True):
        reasons[one["id"]] = reason
        if reason:
            logger.warning("%s excluded, %s", one["id"], reason)
    rows = [(name, "excluded" if reason else "accepted", reason) for name, reason in sorted(reasons.items())]
    subjects = [one for one in found if not reasons[one["id"]]]
    if not subjects:
        raise ValueError(f"none of {len(rows)} subjects in {root_dir} can be used: {_first_reasons(reasons.values())}")
    logger.info("%d subjects, %d excluded", len(subjects), len(rows) - len(subjects))
    return subjects, pd.DataFrame(rows, columns=["id", "status", "reason"])


def _first_reasons(reasons: Iterable[str]) -> str:
    return "; ".join([*reasons][:3]) or "the folder is empty"
