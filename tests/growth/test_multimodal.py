"""Index, checks, labels and splits of multi-modal subjects."""

import logging
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromf.data.multimodal import (
    MODALITIES,
    check_modality_order,
    index_subjects,
    map_labels,
    subject_problem,
    usable_subjects,
)
from neuromf.data.subject_splits import read_split, read_splits, split_subjects, write_splits

REAL = Path(os.environ.get("NEUROMF_REAL_DATA", "../shared/data"))
BRATS, MS = REAL / "tumour_brats_style", REAL / "ms_flair_lesion"
MS_NAMES = {"t1c": "_T1ce.nii.gz", "t1n": "_T1.nii.gz", "t2f": "_FLAIR.nii.gz", "t2w": "_T2.nii.gz",
            "seg": "_lesion.nii.gz"}  # fmt: skip


def scan_file(root, subject, key):
    return root / subject / f"{subject}-{key}.nii.gz"


# --- index -------------------------------------------------------------------------------------------


def test_G01_complete_folders_are_indexed_by_id_and_others_have_a_reason(subject_folder, caplog):
    root = subject_folder("C-000", "A-001", "B-000")
    scan_file(root, "B-000", "t2f").unlink()
    with caplog.at_level(logging.WARNING):
        subjects, excluded = index_subjects(root)
    assert [one["id"] for one in subjects] == ["A-001", "C-000"]
    assert [one["patient"] for one in subjects] == ["A", "C"]
    assert subjects[0].keys() == {"id", "patient", *MODALITIES, "seg"}
    assert excluded == {"B-000": "missing file: no *-t2f.nii.gz"}
    assert "B-000 excluded, missing file" in caplog.text


def test_G01_several_files_of_one_modality_exclude_a_subject(subject_folder):
    root = subject_folder("A", "B")
    shutil.copy(scan_file(root, "A", "t1c"), root / "A" / "copy-t1c.nii.gz")
    subjects, excluded = index_subjects(root)
    assert [one["id"] for one in subjects] == ["B"]
    assert excluded["A"] == "several files: 2 of *-t1c.nii.gz; leave one"


def test_G01_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder; set it"):
        index_subjects(tmp_path / "nowhere")


@pytest.mark.skipif(not BRATS.is_dir(), reason=f"{BRATS} is absent; set NEUROMF_REAL_DATA")
def test_G01_a_real_brats_style_case_is_usable_and_its_code_4_needs_a_label_map():
    subjects, report = usable_subjects(BRATS, label_map={4: 3})
    assert [one["id"] for one in subjects] == ["TCGA-FG-6692"] and subjects[0]["patient"] == "TCGA-FG-6692"
    assert report["status"].tolist() == ["accepted"]
    assert "unknown label: 4" in subject_problem(subjects[0])


@pytest.mark.skipif(not MS.is_dir(), reason=f"{MS} is absent; set NEUROMF_REAL_DATA")
def test_G01_a_real_case_with_other_file_names_is_usable_and_an_incomplete_one_is_not():
    subjects, report = usable_subjects(MS, suffixes=MS_NAMES, label_map={1: 2})
    assert [one["id"] for one in subjects] == ["patient19"]
    assert report.set_index("id")["reason"]["patient07"].startswith("missing file: no *_T1ce.nii.gz")


# --- checks ------------------------------------------------------------------------------------------


def test_G01_a_usable_subject_has_no_problem(subject_folder):
    (subject,), _ = index_subjects(subject_folder("A"))
    assert subject_problem(subject) == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"t1n": np.zeros((12, 14, 10))}, "constant: every voxel of A-t1n.nii.gz is 0"),
        ({"t2w": np.full((12, 14, 10), np.nan)}, "not finite: A-t2w.nii.gz has 1680 NaN"),
        ({"seg": np.full((12, 14, 10), 7)}, "unknown label: 7 is not in data.label_map"),
        ({"seg": np.zeros((6, 7, 5))}, "another grid: seg has not the grid of t1c"),
        ({"t2f": np.ones((6, 7, 5)) * np.arange(5)}, "another grid: t2f has not the grid of t1c"),
    ],
    ids=[
        "all-zero modality",
        "NaN",
        "label outside the map",
        "segmentation on another grid",
        "modality on another grid",
    ],
)
def test_G01_bad_files_exclude_a_subject_with_the_reason(subject_folder, changed, reason):
    root = subject_folder("B")
    subject_folder("A", **changed)
    subjects, report = usable_subjects(root)
    assert [one["id"] for one in subjects] == ["B"]
    assert report.set_index("id")["reason"]["A"].startswith(reason)


def test_G01_a_voxel_size_of_0_and_a_shifted_segmentation_exclude_a_subject(subject_folder):
    root = subject_folder("A", "B", "C")
    path = scan_file(root, "A", "t1c")
    image = nib.load(path)
    image.header["pixdim"][3] = 0
    nib.save(image, path)
    path = scan_file(root, "B", "seg")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4, k=3)), path)
    subjects, report = usable_subjects(root)
    reasons = report.set_index("id")["reason"]
    assert [one["id"] for one in subjects] == ["C"]
    assert reasons["A"].startswith("no voxel size") and reasons["B"].startswith("another grid: seg")


def test_G01_no_usable_subject_is_an_error_with_reasons(subject_folder):
    with pytest.raises(ValueError, match="none of 1 subjects.*constant"):
        usable_subjects(subject_folder("A", t1c=np.zeros((12, 14, 10))))


# --- modality order ----------------------------------------------------------------------------------


def test_G09_another_order_of_modalities_is_refused():
    check_modality_order(MODALITIES, ["t1c", "t1n", "t2f", "t2w"])
    with pytest.raises(ValueError, match="channels would be swapped"):
        check_modality_order(MODALITIES, ["t2f", "t1c", "t1n", "t2w"])


def test_G09_a_split_written_with_another_order_is_refused_at_load(subject_folder, tmp_path):
    subjects, _ = index_subjects(subject_folder("A"))
    write_splits(tmp_path, {"train": subjects}, ["t2f", "t1c", "t1n", "t2w"])
    with pytest.raises(ValueError, match="modality order of train.csv"):
        read_split(tmp_path / "train.csv", MODALITIES)


def test_G09_a_file_of_another_modality_excludes_a_subject(subject_folder):
    (subject,), _ = index_subjects(subject_folder("A"))
    swapped = subject | {"t1c": subject["t1n"], "t1n": subject["t1c"]}
    assert subject_problem(swapped).startswith("modality order: t1c is A-t1n.nii.gz, t1n is A-t1c.nii.gz")


# --- labels ------------------------------------------------------------------------------------------


def test_G81_code_4_becomes_3_and_a_case_without_enhancement_passes(subject_folder):
    assert map_labels(np.array([0, 1, 2, 4]), {4: 3}).tolist() == [0, 1, 2, 3]
    assert map_labels(np.array([0, 1, 2]), {4: 3}).tolist() == [0, 1, 2]
    root = subject_folder("A", codes=(0, 1, 2, 4))
    subject_folder("B", codes=(0, 1, 2))
    assert [one["id"] for one in usable_subjects(root, label_map={4: 3})[0]] == ["A", "B"]


def test_G81_a_label_outside_the_map_is_an_error():
    with pytest.raises(ValueError, match="unknown label: 4 is not in data.label_map"):
        map_labels(np.array([0, 4]), None)
    with pytest.raises(ValueError, match=r"unknown label: 1\.5"):
        map_labels(np.array([0, 1.5]), None)
    with pytest.raises(ValueError, match=r"must map to the labels 0, 1, 2 and 3; got \[5\]"):
        map_labels(np.array([0]), {4: 5})


# --- splits ------------------------------------------------------------------------------------------


def scans(n_patients, n_visits=3):
    fields = dict.fromkeys([*MODALITIES, "seg"], "x")
    return [
        {"id": f"P{p:02d}-{v:03d}", "patient": f"P{p:02d}", **fields}
        for p in range(n_patients)
        for v in range(n_visits)
    ]


def test_G02_all_scans_of_a_patient_are_in_one_split():
    parts = split_subjects(scans(20), val_split=0.1, test_split=0.2, seed=0)
    patients = {name: {one["patient"] for one in part} for name, part in parts.items()}
    assert {name: len(part) for name, part in patients.items()} == {"train": 14, "val": 2, "test": 4}
    assert len(set().union(*patients.values())) == 20
    assert sum(map(len, parts.values())) == 60


def test_G02_patients_of_one_anatomy_are_in_one_split():
    groups = {f"P{p:02d}": f"anatomy {p % 5}" for p in range(20)}
    parts = split_subjects(scans(20), val_split=0.2, test_split=0.2, seed=0, groups=groups)
    anatomies = {name: {groups[one["patient"]] for one in part} for name, part in parts.items()}
    assert {name: len(part) for name, part in anatomies.items()} == {"train": 3, "val": 1, "test": 1}
    assert len(set().union(*anatomies.values())) == 5


def test_G02_the_split_is_seeded_and_independent_of_row_order(tmp_path):
    subjects = scans(20)
    one, other = (split_subjects(rows, val_split=0.1, seed=42) for rows in (subjects, subjects[::-1]))
    write_splits(tmp_path / "one", one, MODALITIES)
    write_splits(tmp_path / "other", other, MODALITIES)
    for name in ("train.csv", "val.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert split_subjects(subjects, val_split=0.1, seed=43) != one
    assert read_splits(tmp_path / "one", MODALITIES) == one
    assert list(pd.read_csv(tmp_path / "one/train.csv")) == ["id", "patient", *MODALITIES, "seg"]


def test_G02_too_few_patients_are_refused():
    with pytest.raises(ValueError, match="2 patients or anatomies are too few"):
        split_subjects(scans(2), val_split=0.1, test_split=0.1, seed=0)
