"""Pairs of FLAIR and mask: found by their true names, matched in world space, and set aside with the right reason."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neuromf.data.participants import read_table
from neuromf.data.sources.pairs import read_pairs
from neuromf.lesions.pairs import PAIR_COLUMNS, FCDDataset, find_pairs, prepare_pairs, read_pair, write_pairs
from neuromf.vae import maisi, weights

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("NEUROMF_REAL_DATA", ROOT.parent / "shared" / "data"))
LAYOUT = REAL / "fcd_ds004199_layout"
real = pytest.mark.skipif(not LAYOUT.is_dir(), reason=f"no real data at {REAL}; set NEUROMF_REAL_DATA")
GRID = {"spacing_mm": 4.0, "shape": (32, 40, 32), "percentiles": (0.0, 99.5)}
BEFORE = nib.affines.from_matvec(np.diag([2.5, 2.5, 2.5]), (-50, -62.5, -50))


def brain(shape=(40, 50, 40)):
    """A stripped head: an egg with some texture, zero around it."""
    place = (np.stack(np.indices(shape)) - np.array(shape).reshape(3, 1, 1, 1) / 2 + 0.5) / np.array(shape).reshape(
        3, 1, 1, 1
    )
    egg = (place**2).sum(0) < 0.16
    return egg * np.random.default_rng(0).uniform(60, 100, shape).astype(np.float32)


def lesion(shape=(40, 50, 40), low=(12, 20, 16), high=(20, 28, 24)):
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


@pytest.fixture
def case(tmp_path):
    """Writes one case as c/c_FLAIR.nii.gz and c/c_lesion.nii.gz."""

    def make(name="c", image=None, mask=None, affine=BEFORE, mask_affine=None):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        for kind, data, to_world in (("FLAIR", image, affine), ("lesion", mask, mask_affine)):
            data = {"FLAIR": brain, "lesion": lesion}[kind]() if data is None else data
            if not isinstance(data, str):
                to_world = affine if to_world is None else to_world
                nib.save(nib.Nifti1Image(data, to_world), tmp_path / "in" / name / f"{name}_{kind}.nii.gz")
            elif data:
                (tmp_path / "in" / name / f"{name}_{kind}.nii.gz").write_bytes(data.encode())
        return tmp_path / "in"

    return make


def prepared(root, out, **settings):
    return prepare_pairs(find_pairs("pairs", root), out, **{**GRID, **settings})


def written(row, kind):
    return nib.load(row[kind])


# --- where pairs are ---------------------------------------------------------------------------------


@pytest.fixture
def bonn(tmp_path):
    """The real dataset as a tree of empty files, with its real tables."""
    with (LAYOUT / "file_manifest.tsv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            path = tmp_path / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "participants.tsv").write_bytes((LAYOUT / "participants.tsv").read_bytes())
    return tmp_path


@real
def test_every_pair_of_the_real_dataset_is_found_by_its_own_name(bonn):
    table = find_pairs("bids", bonn)
    found = table[table["problem"] == ""]
    patients = [row["participant_id"].removeprefix("sub-") for row in csv.DictReader(
        (bonn / "participants.tsv").open(encoding="utf-8-sig"), delimiter="\t") if row["group"] == "fcd"]  # fmt: skip
    assert len(patients) == 85 and sorted(found["person"]) == sorted(patients)
    assert table["person"].nunique() == 170 and found["scan"].is_unique and set(found["sex"]) == {"M", "F"}
    for row in found.to_dict("records"):
        assert row["file"].endswith("_FLAIR.nii.gz") and row["mask"].endswith("_FLAIR_roi.nii.gz")
        assert Path(row["file"]).parent == Path(row["mask"]).parent and row["brain"] == ""
    others = table[table["problem"] != ""]
    assert others["problem"].str.startswith("missing mask: beside sub-").all()


@real
def test_the_patient_whose_mask_is_named_after_another_acquisition_is_found_all_the_same(bonn):
    table = find_pairs("bids", bonn)
    found = table[table["problem"] == ""]
    odd = [row for row in found.to_dict("records") if Path(row["mask"]).name != Path(row["file"]).name.replace(
        "_FLAIR.nii", "_FLAIR_roi.nii")]  # fmt: skip
    assert len(odd) == 1 and "_acq-32ch10_FLAIR_roi" in odd[0]["mask"] and "_acq-T2sel_FLAIR" in odd[0]["file"]


def test_a_mask_of_another_name_is_not_taken_where_there_are_two_images(folder):
    names = [
        "sub-1/anat/sub-1_acq-a_FLAIR.nii.gz",
        "sub-1/anat/sub-1_acq-b_FLAIR.nii",
        "sub-1/anat/sub-1_FLAIR_roi.nii",
    ]
    root = folder(*names)
    rows = read_pairs("bids", root)
    assert [row["problem"].split(":")[0] for row in rows] == ["missing mask"] * 2
    assert "beside sub-1_acq-a_FLAIR.nii.gz is no mask, wanted sub-1_acq-a_FLAIR_roi.nii.gz" in rows[0]["problem"]
    folder("sub-1/anat/sub-1_acq-b_FLAIR_roi.nii")
    assert [row["mask"] for row in read_pairs("bids", root)] == ["", str(root / "sub-1/anat/sub-1_acq-b_FLAIR_roi.nii")]


def test_sessions_of_a_person_are_one_person_and_brain_masks_are_found(folder):
    root = folder(*(f"sub-1/ses-{s}/anat/sub-1_ses-{s}_{end}.nii.gz" for s in (1, 2) for end in ("FLAIR", "FLAIR_roi")))
    folder("brains/sub-1_ses-1.nii.gz")
    table = find_pairs("bids", root, brains="brains/{entities}.nii.gz")
    assert table["scan"].tolist() == ["sub-1_ses-1", "sub-1_ses-2"] and set(table["person"]) == {"1"}
    assert table["brain"][0].endswith("brains/sub-1_ses-1.nii.gz")
    assert table["problem"][1].startswith("missing mask: ") and "brains/sub-1_ses-2" in table["problem"][1]


def test_a_wrong_source_says_what_it_wanted(tmp_path):
    with pytest.raises(ValueError, match="must be one of bids, pairs; got 'folder'"):
        read_pairs("folder", tmp_path)
    with pytest.raises(ValueError, match="fcd.pairs.root is .*nowhere, which is no folder"):
        read_pairs("pairs", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no scan in"):
        read_pairs("pairs", tmp_path)


# --- one pair ----------------------------------------------------------------------------------------


def test_image_and_mask_keep_their_place_in_the_world(case, tmp_path):
    pairs, qc = prepared(case(), tmp_path / "out", spacing_mm=2.0, shape=(56, 68, 60))
    row = pairs.iloc[0]
    image, mask = written(row, "image"), written(row, "mask")
    assert image.shape == mask.shape == (56, 68, 60)
    np.testing.assert_allclose(image.affine, mask.affine)
    middle = nib.affines.apply_affine(mask.affine, np.argwhere(mask.get_fdata()).mean(0))
    np.testing.assert_allclose(middle, nib.affines.apply_affine(BEFORE, (15.5, 23.5, 19.5)), atol=1.0)
    assert row["lesion_ml"] == pytest.approx(8**3 * 2.5**3 / 1000, rel=0.1)
    assert qc["native_ml"][0] == pytest.approx(8.0) and qc["inside"][0] == qc["coverage"][0] == 1
    assert set(np.unique(mask.get_fdata())) == {0, 1} and mask.get_data_dtype() == np.uint8


def test_a_mask_on_another_grid_is_matched_by_nearest_voxel_in_world_space(case, tmp_path):
    """The mask turned, flipped and on voxels of its own is the mask as it was."""
    plain = prepared(case("a"), tmp_path / "a")[0].iloc[0]
    turned = np.flip(np.moveaxis(lesion().repeat(2, axis=2), 2, 0), 1)  # axes: z in halves, x backwards, y
    to_world = np.zeros((4, 4))
    to_world[2, 0], to_world[0, 1], to_world[1, 2], to_world[3, 3] = 1.25, -2.5, 2.5, 1
    first = nib.affines.apply_affine(BEFORE, (39, 0, 0)) - (0, 0, 1.25 / 2)
    to_world[:3, 3] = first
    other = prepared(case("b", mask=np.ascontiguousarray(turned), mask_affine=to_world), tmp_path / "b")[0]
    row = other[other["scan"] == "b"].iloc[0]
    np.testing.assert_array_equal(written(row, "mask").get_fdata(), written(plain, "mask").get_fdata())


def test_a_mask_of_bytes_or_of_almost_0_and_1_is_binary(case, tmp_path):
    case("a", mask=(255 * lesion()).astype(np.uint8))
    case("b", mask=0.998 * lesion() + 0.001)
    pairs, _ = prepared(case("c"), tmp_path / "out")
    first, *others = (written(row, "mask").get_fdata() for row in pairs.to_dict("records"))
    assert len(others) == 2 and all(np.array_equal(first, other) for other in others)


def moved(mm):
    affine = BEFORE.copy()
    affine[0, 3] += mm
    return affine


BAD = {
    "empty": {"mask": 0 * lesion()},
    "three": {"mask": lesion() + lesion(high=(14, 22, 18))},
    "smooth": {"mask": np.clip(np.random.default_rng(0).normal(0.5, 0.2, (40, 50, 40)), 0, 1).astype(np.float32)},
    "signed": {"mask": lesion() - 0.5},
    "nan": {"mask": np.where(lesion() > 0, np.nan, 0).astype(np.float32)},
    "moved": {"mask_affine": moved(30.0)},
    "far": {"mask": lesion((20, 20, 20), (4, 4, 4), (12, 12, 12)), "mask_affine": moved(600.0)},
    "beside": {"mask": lesion(low=(0, 0, 0), high=(6, 6, 6))},
    "absent": {"mask": ""},
    "text": {"mask": "no NIfTI"},
    "blank": {"image": 0 * brain()},
    "tiny": {"mask": lesion(low=(20, 20, 20), high=(21, 21, 21))},
}
REASONS = {
    "empty": "empty mask: empty_lesion.nii.gz marks no voxel",
    "three": "not binary: mask three_lesion.nii.gz holds 3 values from 0 to 2",
    "smooth": "not binary: mask smooth_lesion.nii.gz holds ",
    "signed": "not binary: mask signed_lesion.nii.gz holds 2 values from -0.5 to 0.5",
    "nan": "not finite: nan_lesion.nii.gz has 512 NaN",
    "moved": "shifted: moved_lesion.nii.gz has the shape of its image but lies 30 mm away",
    "far": "outside: 0 % of the lesion of far_lesion.nii.gz lies on the study's grid 32x40x32",
    "beside": "shifted: 0 % of the lesion of beside_lesion.nii.gz lies in the head",
    "absent": "missing mask: ",
    "text": "unreadable: text_lesion.nii.gz",
    "blank": "constant: every voxel of blank_FLAIR.nii.gz is 0",
    "tiny": "too small: the lesion of tiny_lesion.nii.gz, 0.016 ml, meets no voxel of 4.0 mm",
}


def test_what_cannot_be_used_is_set_aside_with_its_reason_and_the_rest_goes_on(case, tmp_path):
    for name, what in BAD.items():
        case(name, **what)
    root = case("good")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "empty_mask.nii.gz").write_bytes(b"of an earlier run")
    pairs, qc = prepared(root, tmp_path / "out")
    assert pairs["scan"].tolist() == ["good"] and pairs["split"].tolist() == ["train"]
    reasons = dict(zip(qc["scan"], qc["reason"], strict=True))
    assert reasons.keys() == {*BAD, "good"} and reasons.pop("good") == ""
    assert {name: reasons[name][: len(start)] for name, start in REASONS.items()} == REASONS
    assert (qc["split"] != "").sum() == 1 and (qc["status"] == "quarantined").sum() == len(BAD)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good_FLAIR.nii.gz", "good_mask.nii.gz"}


def test_splits_are_by_person_and_shared_out_among_those_that_can_be_used(case, tmp_path):
    regex = "(?P<scan>(?P<person>p[0-9]+).*)_FLAIR"
    for k in range(8):
        case(f"p{k}a", mask=0 * lesion() if k < 4 else None)
        root = case(f"p{k}b", mask=0 * lesion() if k < 4 else None)
    table = find_pairs("pairs", root, scan_regex=regex)
    pairs, qc = prepare_pairs(table, tmp_path / "out", **GRID, shares={"train": 0.5, "val": 0.25, "test": 0.25})
    assert (pairs.groupby("person")["split"].nunique() == 1).all()
    assert pairs.groupby("split")["person"].nunique().to_dict() == {"train": 2, "val": 1, "test": 1}
    write_pairs(pairs, qc, tmp_path)
    assert read_table(tmp_path / "pairs.tsv").columns.tolist() == PAIR_COLUMNS
    with pytest.raises(ValueError, match=r"no training pair among 16 scans \(set aside: 8 empty mask\)"):
        write_pairs(pairs[pairs["split"] == "test"], qc, tmp_path)


# --- the dataset -------------------------------------------------------------------------------------


@pytest.fixture
def cases(case):
    for k in range(4):
        root = case(f"s{k}", mask=lesion(low=(12 + k, 20, 16)))
    return root


def test_items_are_image_mask_and_joint_latent(cases, tmp_path):
    net = weights.load(weights.PACKAGED)
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    data = FCDDataset(cases, "level", net, grid=GRID, shares=shares)
    assert len(data) == 4 and (data.qc["status"] == "accepted").all()
    item = data[1]
    assert item["image"].shape == item["mask"].shape == (1, *GRID["shape"]) and item["latent"].shape == (5, 8, 10, 8)
    assert item["image"].dtype == item["mask"].dtype == item["latent"].dtype == torch.float32
    assert 0 <= item["image"].min() and item["image"].max() <= 1 and set(item["mask"].unique().tolist()) == {0, 1}
    torch.testing.assert_close(item["latent"][:4], maisi.evaluate(net, "encode", item["image"][None])[0][0])
    assert data[1]["latent"] is item["latent"]  # encoded once
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=2)))
    assert batch["latent"].shape == (2, 5, 8, 10, 8) and batch["scan"] == data.pairs["scan"][:2].tolist()
    assert FCDDataset(cases, "vae", net, grid=GRID, shares=shares, split="train")[0]["latent"].shape[0] == 8


def test_prepared_pairs_are_read_as_they_are_and_splits_are_apart(cases, tmp_path):
    made = FCDDataset(cases, grid=GRID, work=tmp_path / "volumes", shares={"train": 0.5, "val": 0.25, "test": 0.25})
    write_pairs(made.pairs, made.qc, tmp_path)
    parts = [FCDDataset(tmp_path, split=split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [2, 1, 1] and parts[0].qc is None
    assert len({part[k]["person"] for part in parts for k in range(len(part))}) == 4
    assert "latent" not in parts[0][0]
    torch.testing.assert_close(FCDDataset(tmp_path)[0]["image"], made[0]["image"])
    with pytest.raises(ValueError, match="split must be one of train, val, test, or None for all; got 'all'"):
        FCDDataset(tmp_path, split="all")
    with pytest.raises(
        ValueError, match="mask_strategy must be one of vae, distance, downsample, level; got 'nearest'"
    ):
        FCDDataset(tmp_path, "nearest")


@pytest.mark.skipif(not (REAL / "lgg_flair_lesion").is_dir(), reason=f"no real data at {REAL}; set NEUROMF_REAL_DATA")
def test_a_real_head_and_its_mask_agree(tmp_path):
    table = find_pairs("pairs", REAL / "lgg_flair_lesion")
    assert len(table) == 13 and (table["problem"] == "").all()
    one = table[table["scan"] == "TCGA_FG_6692"]
    pairs, qc = prepare_pairs(one, tmp_path, **{**GRID, "shape": (48, 56, 48)})
    assert qc["inside"][0] == qc["coverage"][0] == 1 and qc["stripped_by"][0] == "none"
    assert pairs["lesion_ml"][0] == pytest.approx(qc["native_ml"][0], rel=0.05)
    image, mask = read_pair(pairs.iloc[0])
    assert image[mask > 0].mean() > 1.3 * image[(mask == 0) & (image > 0.05)].mean()


@pytest.mark.slow
def test_pairs_of_any_names_are_planned_and_a_wrong_root_is_refused_before_any_job(case, tmp_path):
    def plan(root):
        settings = json.dumps({"source": "pairs", "pairs": {"root": str(root)}})
        command = [sys.executable, "-m", "snakemake", "results/fcd/pairs.tsv", "-n", "--quiet", "rules"]
        command += ["--configfile", "tests/config/tiny.yaml", "--directory", str(tmp_path / "run")]
        command += ["--config", f"fcd={settings}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said = plan(case())
    assert code == 0 and "pairs " in said and "lesions" not in said, said
    code, said = plan(tmp_path / "nowhere")
    assert code != 0 and "nowhere, which is no folder" in said
