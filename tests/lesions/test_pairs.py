"""Pairs of FLAIR and mask: found by name, matched in world space, quarantined with the right reason."""

import csv
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neuromf.data.participants import read_table, tidy
from neuromf.data.sources.pairs import read_pairs
from neuromf.lesions.pairs import PAIR_COLUMNS, FCDDataset, prepare_pairs, read_pair
from neuromf.vae import maisi, weights

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("NEUROMF_REAL_DATA", ROOT.parent / "shared" / "data"))
LAYOUT = REAL / "fcd_ds004199_layout"
real = pytest.mark.skipif(not LAYOUT.is_dir(), reason=f"no real data at {REAL}; set NEUROMF_REAL_DATA")
GRID = {"spacing_mm": 4.0, "shape": (32, 40, 32), "percentiles": (0.0, 99.5)}
HALF = {"train": 0.5, "val": 0.25, "test": 0.25}
BEFORE = nib.affines.from_matvec(np.diag([2.5, 2.5, 2.5]), (-50, -62.5, -50))


def brain(shape=(40, 50, 40), seed=0):
    """A skull-stripped brain: an ellipsoid with texture, zero around it."""
    sides = np.array(shape).reshape(3, 1, 1, 1)
    position = (np.stack(np.indices(shape)) - sides / 2 + 0.5) / sides
    ellipsoid = (position**2).sum(0) < 0.16
    return ellipsoid * np.random.default_rng(seed).uniform(60, 100, shape).astype(np.float32)


def lesion(shape=(40, 50, 40), low=(12, 20, 16), high=(20, 28, 24)):
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


@pytest.fixture
def case(tmp_path):
    """Function that writes one case as c/c_FLAIR.nii.gz and c/c_lesion.nii.gz."""

    def make(name="c", image=None, mask=None, affine=BEFORE, mask_affine=None):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        for kind, data, to_world in (("FLAIR", image, affine), ("lesion", mask, mask_affine)):
            if data is None:  # each case has its own image
                data = brain(seed=zlib.crc32(name.encode())) if kind == "FLAIR" else lesion()
            if not isinstance(data, str):
                to_world = affine if to_world is None else to_world
                nib.save(nib.Nifti1Image(data, to_world), tmp_path / "in" / name / f"{name}_{kind}.nii.gz")
            elif data:
                (tmp_path / "in" / name / f"{name}_{kind}.nii.gz").write_bytes(data.encode())
        return tmp_path / "in"

    return make


def prepared(root, out, **grid):
    """Tables of pairs and of quality control of a folder."""
    qc = prepare_pairs(source="pairs", pairs={"root": root}, volumes={**GRID, **grid}, folder=out / "volumes", out=out)
    return read_table(out / "pairs.tsv").astype({"lesion_ml": float}), qc


def find_pairs(source, root, **settings):
    return tidy(read_pairs(source, root, **settings))


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
def test_every_pair_of_the_real_dataset_is_found(bonn):
    table = find_pairs("bids", bonn)
    usable = table[table["problem"] == ""]
    patients = [row["participant_id"].removeprefix("sub-") for row in csv.DictReader(
        (bonn / "participants.tsv").open(encoding="utf-8-sig"), delimiter="\t") if row["group"] == "fcd"]  # fmt: skip
    assert len(patients) == 85 and sorted(usable["participant"]) == sorted(patients)
    assert table["participant"].nunique() == 170 and usable["scan"].is_unique and set(usable["sex"]) == {"M", "F"}
    for row in usable.to_dict("records"):
        assert row["file"].endswith("_FLAIR.nii.gz") and row["mask"].endswith("_FLAIR_roi.nii.gz")
        assert Path(row["file"]).parent == Path(row["mask"]).parent and row["brain"] == ""
    others = table[table["problem"] != ""]
    assert others["problem"].str.startswith("missing mask: beside sub-").all()


@real
def test_a_mask_named_after_another_acquisition_is_found(bonn):
    table = find_pairs("bids", bonn)
    usable = table[table["problem"] == ""]
    renamed = [row for row in usable.to_dict("records") if Path(row["mask"]).name != Path(row["file"]).name.replace(
        "_FLAIR.nii", "_FLAIR_roi.nii")]  # fmt: skip
    assert (
        len(renamed) == 1 and "_acq-32ch10_FLAIR_roi" in renamed[0]["mask"] and "_acq-T2sel_FLAIR" in renamed[0]["file"]
    )


def test_with_two_images_a_mask_of_another_name_is_not_taken(folder):
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
    assert table["scan"].tolist() == ["sub-1_ses-1", "sub-1_ses-2"] and set(table["participant"]) == {"1"}
    assert table["brain"][0].endswith("brains/sub-1_ses-1.nii.gz")
    assert table["problem"][1].startswith("missing mask: ") and "brains/sub-1_ses-2" in table["problem"][1]


def test_unknown_sources_and_wrong_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of bids, pairs; got 'folder'"):
        read_pairs("folder", tmp_path)
    with pytest.raises(ValueError, match="lesions.pairs.root is .*nowhere, which is no folder"):
        read_pairs("pairs", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no scan in"):
        read_pairs("pairs", tmp_path)


# --- one pair ----------------------------------------------------------------------------------------


def test_image_and_mask_do_not_move_in_world_space(case, tmp_path):
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


def test_a_mask_on_another_grid_is_matched_in_world_space(case, tmp_path):
    """A permuted, flipped mask with other voxel sizes gives the same result."""
    plain = prepared(case("a"), tmp_path / "a")[0].iloc[0]
    turned = np.flip(np.moveaxis(lesion().repeat(2, axis=2), 2, 0), 1)  # axes: z in halves, x backwards, y
    to_world = np.zeros((4, 4))
    to_world[2, 0], to_world[0, 1], to_world[1, 2], to_world[3, 3] = 1.25, -2.5, 2.5, 1
    first = nib.affines.apply_affine(BEFORE, (39, 0, 0)) - (0, 0, 1.25 / 2)
    to_world[:3, 3] = first
    other = prepared(case("b", mask=np.ascontiguousarray(turned), mask_affine=to_world), tmp_path / "b")[0]
    row = other[other["scan"] == "b"].iloc[0]
    np.testing.assert_array_equal(written(row, "mask").get_fdata(), written(plain, "mask").get_fdata())


def test_masks_of_uint8_or_with_rounding_errors_are_binary(case, tmp_path):
    case("a", mask=(255 * lesion()).astype(np.uint8))
    case("b", mask=0.998 * lesion() + 0.001)
    pairs, _ = prepared(case("c"), tmp_path / "out")
    first, *others = (written(row, "mask").get_fdata() for row in pairs.to_dict("records"))
    assert len(others) == 2 and all(np.array_equal(first, other) for other in others)


def shifted(mm):
    affine = BEFORE.copy()
    affine[0, 3] += mm
    return affine


BAD = {
    "empty": {"mask": 0 * lesion()},
    "three": {"mask": lesion() + lesion(high=(14, 22, 18))},
    "smooth": {"mask": np.clip(np.random.default_rng(0).normal(0.5, 0.2, (40, 50, 40)), 0, 1).astype(np.float32)},
    "signed": {"mask": lesion() - 0.5},
    "nan": {"mask": np.where(lesion() > 0, np.nan, 0).astype(np.float32)},
    "moved": {"mask_affine": shifted(30.0)},
    "far": {"mask": lesion((20, 20, 20), (4, 4, 4), (12, 12, 12)), "mask_affine": shifted(600.0)},
    "beside": {"mask": lesion(low=(0, 0, 0), high=(6, 6, 6))},
    "absent": {"mask": ""},
    "text": {"mask": "no NIfTI"},
    "blank": {"image": 0 * brain()},
    "tiny": {"mask": lesion(low=(20, 20, 20), high=(21, 21, 21))},
}
REASONS = {
    "empty": "empty mask: empty_lesion.nii.gz has no lesion voxel",
    "three": "not binary: mask three_lesion.nii.gz has 3 values from 0 to 2",
    "smooth": "not binary: mask smooth_lesion.nii.gz has ",
    "signed": "not binary: mask signed_lesion.nii.gz has 2 values from -0.5 to 0.5",
    "nan": "not finite: nan_lesion.nii.gz has 512 NaN",
    "moved": "shifted: moved_lesion.nii.gz has the shape of its image but lies 30 mm away",
    "far": "outside: 0 % of the lesion of far_lesion.nii.gz lies on the study's grid 32x40x32",
    "beside": "shifted: 0 % of the lesion of beside_lesion.nii.gz lies in the foreground",
    "absent": "missing mask: ",
    "text": "unreadable: text_lesion.nii.gz",
    "blank": "constant: every voxel of blank_FLAIR.nii.gz is 0",
    "tiny": "too small: the lesion of tiny_lesion.nii.gz, 0.016 ml, meets no voxel of 4.0 mm",
}


def test_unusable_pairs_are_quarantined_with_their_reason(case, tmp_path):
    for name, arrays in BAD.items():
        case(name, **arrays)
    root, volumes = case("good"), tmp_path / "out" / "volumes"
    volumes.mkdir(parents=True)
    (volumes / "empty_mask.nii.gz").write_bytes(b"of an earlier run")
    pairs, qc = prepared(root, tmp_path / "out")
    assert pairs["scan"].tolist() == ["good"] and pairs["split"].tolist() == ["train"]
    reasons = dict(zip(qc["scan"], qc["reason"], strict=True))
    assert reasons.keys() == {*BAD, "good"} and reasons.pop("good") == ""
    assert {name: reasons[name][: len(start)] for name, start in REASONS.items()} == REASONS
    assert (qc["split"] != "").sum() == 1 and (qc["status"] == "quarantined").sum() == len(BAD)
    assert {path.name for path in volumes.iterdir()} == {"good_FLAIR.nii.gz", "good_mask.nii.gz"}


def ball(radius, shape=(40, 50, 40)):
    return (np.stack(np.indices(shape)) - np.array(shape).reshape(3, 1, 1, 1) / 2 + 0.5).__pow__(2).sum(0) < radius**2


@pytest.mark.parametrize(
    ("mask", "looks"),
    [
        (lambda: (brain() > 0) & ~(lesion() > 0), "it looks like a lesion mask inverted inside the brain"),
        (lambda: brain() > 0, "it looks like a brain mask, or a mask of the head"),
        (lambda: ball(16), "it looks like a brain mask, or a mask of the head"),
        (lambda: lesion() == 0, "marks all corners of its image; it looks inverted: exchange 0 and 1"),
    ],
)
def test_a_mask_that_is_no_lesion_says_what_it_looks_like(case, tmp_path, mask, looks):
    case("good")
    root = case("odd", mask=mask().astype(np.uint8))
    _, qc = prepared(root, tmp_path / "out")
    good, odd = qc.set_index("scan").loc[["good", "odd"], "reason"]
    assert good == "" and odd.startswith("no lesion: odd_lesion.nii.gz marks ") and odd.endswith(looks)


def test_a_large_lesion_is_a_lesion(case, tmp_path):
    """A quarter of the brain: 142 ml of about 560 in the largest glioma of the real data is a quarter, too."""
    root = case("c", mask=ball(9).astype(np.uint8))
    assert prepared(root, tmp_path / "out")[1]["reason"].tolist() == [""]


def test_the_same_image_under_two_names_is_one_pair_and_splits_stay(case, tmp_path):
    for name in "abcdefgh":
        root = case(name)
    settings = {"source": "pairs", "pairs": {"root": root}, "volumes": GRID, "split": HALF}
    before = prepare_pairs(**settings, folder=tmp_path / "v", out=tmp_path / "before").set_index("scan")
    image, mask = (nib.load(root / f"c/c_{kind}.nii.gz").get_fdata(dtype=np.float32) for kind in ("FLAIR", "lesion"))
    case("h", image=image, mask=np.roll(mask, 2, axis=1))  # another rater's mask
    after = prepare_pairs(**settings, folder=tmp_path / "v", out=tmp_path / "after").set_index("scan")
    assert after.loc["h", "reason"] == "duplicate: same content as c; remove one of the two files"
    assert after["split"].drop("h").to_dict() == before["split"].drop("h").to_dict() and after.loc["h", "split"] == ""
    assert "h" not in read_table(tmp_path / "after/pairs.tsv")["scan"].tolist()


def test_splits_are_by_participant_with_usable_pairs(case, tmp_path):
    for k in range(8):
        case(f"p{k}a", mask=0 * lesion() if k < 4 else None)
        root = case(f"p{k}b", mask=0 * lesion() if k < 4 else None)
    settings = {"root": root, "scan_regex": "(?P<scan>(?P<participant>p[0-9]+).*)_FLAIR"}
    files = {"source": "pairs", "pairs": settings, "volumes": GRID, "folder": tmp_path / "out", "out": tmp_path}
    prepare_pairs(**files, split=HALF)
    pairs = read_table(tmp_path / "pairs.tsv")
    assert (pairs.groupby("participant")["split"].nunique() == 1).all()
    assert pairs.groupby("split")["participant"].nunique().to_dict() == {"train": 2, "val": 1, "test": 1}
    assert pairs.columns.tolist() == PAIR_COLUMNS
    with pytest.raises(ValueError, match=r"no training pair among 16 scans \(quarantined: 8 empty mask\)"):
        prepare_pairs(**files, split={"test": 1.0})


# --- the dataset -------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(case, tmp_path):
    """Folder of four prepared pairs."""
    for k in range(4):
        root = case(f"s{k}", mask=lesion(low=(12 + k, 20, 16)))
    files = {"folder": tmp_path / "volumes", "out": tmp_path}
    prepare_pairs(source="pairs", pairs={"root": root}, volumes=GRID, split=HALF, **files)
    return tmp_path


def test_items_are_image_mask_and_latent(data_dir):
    net = weights.load(weights.PACKAGED)
    data = FCDDataset(data_dir, "level", net)
    assert len(data) == 4
    item = data[1]
    assert item["image"].shape == item["mask"].shape == (1, *GRID["shape"]) and item["latent"].shape == (5, 8, 10, 8)
    assert item["image"].dtype == item["mask"].dtype == item["latent"].dtype == torch.float32
    assert 0 <= item["image"].min() and item["image"].max() <= 1 and set(item["mask"].unique().tolist()) == {0, 1}
    torch.testing.assert_close(item["latent"][:4], maisi.encode_safely(net, item["image"][None])[0][0])
    assert data[1]["latent"] is item["latent"]  # encoded once
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=2)))
    assert batch["latent"].shape == (2, 5, 8, 10, 8) and batch["scan"] == data.pairs["scan"][:2].tolist()
    assert FCDDataset(data_dir, "vae", net, split="train")[0]["latent"].shape[0] == 8


def test_splits_of_the_dataset_are_disjoint_and_wrong_arguments_are_refused(data_dir):
    parts = [FCDDataset(data_dir, split=split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [2, 1, 1] and "latent" not in parts[0][0]
    assert len({part[k]["participant"] for part in parts for k in range(len(part))}) == 4
    with pytest.raises(ValueError, match="split must be one of train, val, test, or None for all; got 'all'"):
        FCDDataset(data_dir, split="all")
    with pytest.raises(
        ValueError, match="mask_encoding must be one of vae, distance, downsample, level; got 'nearest'"
    ):
        FCDDataset(data_dir, "nearest")


@pytest.mark.skipif(not (REAL / "lgg_flair_lesion").is_dir(), reason=f"no real data at {REAL}; set NEUROMF_REAL_DATA")
def test_a_real_lesion_is_brighter_than_its_surroundings(tmp_path):
    root = REAL / "lgg_flair_lesion"
    table = find_pairs("pairs", root)
    assert len(table) == 13 and (table["problem"] == "").all()
    grid = {**GRID, "shape": (48, 56, 48)}
    one = {"root": root, "images": "TCGA_FG_6692/*_FLAIR.nii.gz"}
    qc = prepare_pairs(source="pairs", pairs=one, volumes=grid, folder=tmp_path / "volumes", out=tmp_path)
    assert qc["inside"][0] == qc["coverage"][0] == 1 and qc["stripped_by"][0] == "none"
    assert qc["lesion_ml"][0] == pytest.approx(qc["native_ml"][0], rel=0.05)
    image, mask = read_pair(qc.iloc[0])
    assert image[mask > 0].mean() > 1.3 * image[(mask == 0) & (image > 0.05)].mean()


@pytest.mark.slow
def test_pairs_of_any_names_are_planned_and_a_wrong_root_is_refused_before_any_job(case, tmp_path):
    def plan(root):
        settings = json.dumps({"source": "pairs", "pairs": {"root": str(root)}})
        command = [sys.executable, "-m", "snakemake", "results/fcd/pairs.tsv", "-n", "--quiet", "rules"]
        command += ["--configfile", "tests/config/tiny.yaml", "--directory", str(tmp_path / "run")]
        command += ["--config", f"lesions={settings}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, output = plan(case())
    assert code == 0 and "pairs " in output and "simulate_lesions" not in output, output
    code, output = plan(tmp_path / "nowhere")
    assert code != 0 and "nowhere" in output and "no folder" in output
