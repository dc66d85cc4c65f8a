"""Preprocessing: world coordinates are kept, the brain stays inside the crop, no partial file is left."""

import errno
import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from neuromf.data import foreground, nifti, participants, preprocessing
from workflow_scripts import prepare as prepare_script

SHAPE = (10, 20, 30)
GRID = {"spacing_mm": 2.0, "shape": (12, 24, 32)}
REAL = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))


def rotation(degrees, axis=2):
    """Rotation matrix about one axis, 3x3."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = (k for k in range(3) if k != axis)
    matrix[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
    return matrix


def affine(columns, sizes=(2, 2, 2), origin=(-11, -17, 23)):
    return nib.affines.from_matvec(np.asarray(columns, float) * sizes, origin)


RAS = affine(np.eye(3))
PSR = affine(np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]))  # as IXI
AFFINES = {
    "RAS": RAS,
    "left-handed": affine(np.diag([-1, 1, 1])),
    "PSR": PSR,
    "left-handed PSL": affine(np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]])),
    "oblique": affine(rotation(14) @ rotation(9, axis=0)),
    "oblique PSR": affine(rotation(12, axis=1) @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])),
    "anisotropic": affine(rotation(10), sizes=(1.1, 2.4, 1.9)),
}


@pytest.fixture
def everywhere(save):
    """A mask of all voxels."""
    return lambda to_world, shape=SHAPE: save(np.ones(shape, np.uint8), to_world, "mask.nii.gz")


def worlds(shape, to_world):
    """World position of each voxel, shape (I, J, K, 3)."""
    return nib.affines.apply_affine(to_world, np.stack(np.indices(shape), axis=-1))


def ramp(points):
    return points @ [1.0, 2.0, -3.0] + 200


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing_mm", [1.3, 2.0, 2.9])
def test_a_field_of_world_coordinates_is_preserved(save, everywhere, name, spacing_mm):
    native = AFFINES[name]
    path = save(ramp(worlds(SHAPE, native)).astype(np.float32), native)
    settings = {"spacing_mm": spacing_mm, "shape": (50, 50, 50), "percentiles": (0, 100)}
    volume, to_world, facts = preprocessing.prepare(path, mask=everywhere(native), **settings)
    found = facts["low"] + volume * (facts["high"] - facts["low"])
    points = worlds(volume.shape, to_world)
    voxels = nib.affines.apply_affine(np.linalg.inv(native), points)
    within = ((voxels >= 4) & (voxels <= np.array(SHAPE) - 5)).all(axis=-1)
    assert within.sum() > 40
    np.testing.assert_allclose(found[within], ramp(points)[within], atol=2e-3)


@pytest.mark.parametrize("name", AFFINES)
def test_a_marked_voxel_keeps_its_position_within_half_a_voxel(save, everywhere, noise, name):
    noise[3, 14, 22] = 1000
    path, native = save(noise, AFFINES[name]), AFFINES[name]
    settings = {"spacing_mm": 1.5, "shape": (40, 32, 24), "percentiles": (0, 100)}
    volume, to_world, _ = preprocessing.prepare(path, mask=everywhere(native), **settings)
    place = nib.affines.apply_affine(native, (3, 14, 22))
    found = np.unravel_index(volume.argmax(), volume.shape)
    assert np.abs(nib.affines.apply_affine(np.linalg.inv(to_world), place) - found).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("name", AFFINES)
def test_axes_become_ras_and_voxels_isotropic(save, noise, name):
    volume, to_world, facts = preprocessing.prepare(save(noise, AFFINES[name]), **GRID)
    assert volume.shape == GRID["shape"] and volume.dtype == np.float32 and to_world.dtype == np.float64
    assert "".join(nib.aff2axcodes(to_world)) == "RAS"
    np.testing.assert_allclose(nib.affines.voxel_sizes(to_world), 2.0, rtol=1e-6)
    assert facts["native_shape"] == "10x20x30"
    assert facts["native_axes"] == "".join(nib.aff2axcodes(AFFINES[name]))
    assert (facts["oblique_deg"] > 1) == (name in {"oblique", "oblique PSR", "anisotropic"})


def test_a_scan_on_the_same_grid_is_only_cropped(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:9, 2:18, 5:25] = 1
    settings = {"spacing_mm": 2.0, "shape": (8, 16, 20), "percentiles": (0, 100), "mask": save(mask, name="m.nii.gz")}
    volume, to_world, facts = preprocessing.prepare(save(noise), **settings)
    cut = noise[1:9, 2:18, 5:25]
    np.testing.assert_allclose(volume, (cut - cut.min()) / (cut.max() - cut.min()), atol=1e-6)
    np.testing.assert_allclose(to_world[:3, 3], nib.affines.apply_affine(RAS, (1, 2, 5)))
    assert facts["coverage"] == 1 and facts["native_spacing_mm"] == "2.00x2.00x2.00"


def test_stripes_finer_than_the_grid_do_not_alias(save, everywhere):
    stripes = np.broadcast_to(100.0 * (np.arange(30) % 2), (12, 12, 30)).astype(np.float32)
    fine = affine(np.eye(3), sizes=(2.2, 2.2, 1))
    settings = {
        "spacing_mm": 2.2,
        "shape": (12, 12, 14),
        "percentiles": (0, 100),
        "mask": everywhere(fine, (12, 12, 30)),
    }
    facts = preprocessing.prepare(save(stripes, fine), **settings)[2]
    assert 20 < facts["low"] and facts["high"] < 80
    settings["spacing_mm"] = 1.4
    facts = preprocessing.prepare(save(stripes, fine), **settings)[2]
    assert facts["low"] < 1 and facts["high"] > 99


def test_coverage_is_the_fraction_of_the_mask_inside_the_crop(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :, 10:20] = 1  # 10 x 20 x 10 voxels, of which 5 x 20 x 4 fit
    settings = {"spacing_mm": 2.0, "shape": (5, 24, 4), "mask": save(mask, name="m.nii.gz")}
    volume, to_world, facts = preprocessing.prepare(save(noise), **settings)
    assert facts["coverage"] == 0.2
    np.testing.assert_allclose(to_world[:3, 3], nib.affines.apply_affine(RAS, (2, -2, 13)))
    assert (volume[:, :2] == 0).all() and (volume[:, 22:] == 0).all()


def test_a_mask_on_another_grid_is_matched_in_world_space(save):
    """A box in mm on a finer, flipped grid: voxels inside stay, voxels outside become 0."""
    other = affine(np.diag([-1, 1, -1]), sizes=(1, 1, 1), origin=(12, -20, 85))
    low, high = np.array([-8.2, -12.2, 32.2]), np.array([2.2, 10.2, 60.2])
    inside = ((worlds((30, 50, 65), other) > low) & (worlds((30, 50, 65), other) < high)).all(axis=-1)
    data = np.full(SHAPE, 100, np.float32)
    data[::2] = 60
    settings = {"spacing_mm": 2.0, "shape": (10, 20, 30), "percentiles": (0, 100)}
    path = save(data - 10 * (np.indices(SHAPE)[1] == 0))
    volume, to_world, _ = preprocessing.prepare(
        path, mask=save(inside.astype(np.int16) * 7, other, "m.nii.gz"), **settings
    )
    points = worlds(volume.shape, to_world)
    expected = ((points > low) & (points < high)).all(axis=-1) & (np.abs(points[..., 0] - low[0]) > 0)
    bright = np.isclose((points[..., 0] - RAS[0, 3]) / 2 % 2, 1)
    np.testing.assert_array_equal(volume, (expected & bright).astype(np.float32))


def test_percentiles_are_those_of_the_foreground(noise):
    inside = noise > 75
    scaled = preprocessing.rescale_intensities(noise, 0, 50, inside)
    middle = np.median(noise[inside])
    np.testing.assert_allclose(
        scaled, np.clip((noise - noise[inside].min()) / (middle - noise[inside].min()), 0, 1), atol=1e-5
    )
    np.testing.assert_allclose(
        preprocessing.rescale_intensities(noise, 1, 99),
        preprocessing.rescale_intensities(noise, 1, 99, noise > 0),
        atol=1e-6,
    )


def test_negative_intensities_are_accepted(save, noise):
    shifted, _, _ = preprocessing.prepare(save(noise - 1000), **GRID)
    plain, _, _ = preprocessing.prepare(save(noise), **GRID)
    np.testing.assert_allclose(shifted, plain, atol=1e-5)


def test_the_foreground_holds_enclosed_dark_voxels():
    data = np.random.default_rng(0).uniform(0, 5, (30, 34, 38))
    distance = np.linalg.norm(worlds(data.shape, np.eye(4)) - [14, 16, 18], axis=-1)
    data[(distance < 10) & (distance > 6)] += 100  # a shell with dark inside,
    data[14, 16, 18:] += 5  # a canal that leads there,
    data[14, 16, 24:28] = 0
    data[1, 1, 1] = 10000  # and one broken voxel
    inside = foreground.foreground_mask(data)
    assert inside[distance < 10].all() and not inside[distance > 13].any()


def whole_head(spacing_mm=4.0):
    """A head: skull, brain, a neck that is cut by the border, a nose; and the mask of the brain."""
    points = worlds((48, 64, 64), np.diag([spacing_mm] * 3 + [1]))
    skull = np.linalg.norm(points - [96, 110, 150], axis=-1)
    neck = (np.linalg.norm(points[..., :2] - [96, 105], axis=-1) < 60) & (points[..., 2] < 150)
    nose = (np.abs(points - [96, 215, 90]) < [16, 24, 16]).all(axis=-1)
    brain = skull < 76
    data = 100.0 * ((skull < 92) | neck | nose) * ((skull < 78) | (skull > 84) | neck | nose)
    return (data + 60 * brain).astype(np.float32), brain


def test_a_head_with_a_neck_is_centred_on_its_brain(save):
    data, brain = whole_head()
    data += np.random.default_rng(0).uniform(0, 8, data.shape)
    to_world = affine(np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]), (4, 4, 4))
    path = save(np.moveaxis(data, [0, 1, 2], [2, 0, 1])[::-1].astype(np.float32), to_world)
    _, found, facts = preprocessing.prepare(path, spacing_mm=4.0, shape=(44, 44, 44))
    native = np.argwhere(np.moveaxis(brain, [0, 1, 2], [2, 0, 1])[::-1])
    voxels = nib.affines.apply_affine(np.linalg.inv(found), nib.affines.apply_affine(to_world, native))
    assert ((voxels > -0.5) & (voxels < 43.5)).all()
    middle = (voxels.min(axis=0) + voxels.max(axis=0)) / 2
    assert np.abs(middle - 21.5).max() < 3  # 12 mm; the centre of the bounding box is 26 mm away
    assert facts["stripped_by"] == "none" and facts["coverage"] < 0.95


def test_isolated_voxels_distinguish_raw_from_skull_stripped_scans():
    data, brain = whole_head()
    rng = np.random.default_rng(0)
    specks = np.where(rng.random(data.shape) < 0.15, rng.uniform(1, 9, data.shape), 0).astype(np.float32)
    assert np.mean(data + specks == 0) > 1 / 3
    assert not foreground.is_skull_stripped(data + specks) and foreground.is_skull_stripped(data * brain)
    assert (
        foreground.foreground_mask(data + specks).sum() < 1.4 * foreground.foreground_mask(data).sum() < 0.5 * data.size
    )
    np.testing.assert_array_equal(foreground.foreground_mask(data * brain), brain)


def test_skull_stripped_scans_are_recognised(save, noise):
    data = np.zeros((24, 30, 30), np.float32)
    data[6:20, 5:25, 6:24] = 100 + np.random.default_rng(0).normal(0, 9, (14, 20, 18))
    plain = np.random.default_rng(1).normal(10, 2, data.shape) * (data == 0)
    settings = {"spacing_mm": 2.0, "shape": (20, 24, 24)}
    assert preprocessing.prepare(save(data), **settings)[2]["stripped_by"] == "already"
    assert preprocessing.prepare(save(data + plain), **settings)[2]["stripped_by"] == "none"
    mask = save((data > 0).astype(np.uint8), name="m.nii.gz")
    assert preprocessing.prepare(save(data), mask=mask, **settings)[2]["stripped_by"] == "mask"


def test_facts_hold_size_and_brightness_of_the_foreground(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:9, 2:18, 5:25] = 1
    settings = {"spacing_mm": 2.0, "shape": (4, 16, 20), "percentiles": (0, 100)}
    volume, _, facts = preprocessing.prepare(save(noise), mask=save(mask, name="m.nii.gz"), **settings)
    cut = noise[1:9, 2:18, 5:25]
    assert (facts["extent_mm"], facts["foreground_ml"]) == ("16x32x40", 20.5)  # 8 x 16 x 20 voxels of 0.008 ml
    assert facts["mean"] == pytest.approx(float(((cut - cut.min()) / np.ptp(cut)).mean()), abs=1e-4)
    assert (facts["bias_field"], facts["coverage"]) == ("none", 0.5)


def test_a_head_without_a_mask_is_centred(save, noise):
    data = np.zeros((24, 30, 30), np.float32)
    data[12:20, 5:15, 9:21] = 100 + noise[:8, :10, :12]
    volume, _, facts = preprocessing.prepare(save(data), spacing_mm=2.0, shape=(16, 16, 16))
    bright = np.argwhere(volume > 0.3)
    np.testing.assert_array_equal((bright.min(axis=0) + bright.max(axis=0) + 1) / 2, (8, 8, 8))
    assert facts["coverage"] == 1


def test_a_scan_that_is_constant_inside_its_mask_is_refused(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :, 5:25] = 1
    with pytest.raises(
        preprocessing.BadScan, match="constant: inside its foreground scan.nii.gz is 7 from percentile to"
    ):
        preprocessing.prepare(save(np.where(mask, 7, noise)), mask=save(mask, name="m.nii.gz"), **GRID)


@pytest.mark.parametrize(("fill", "origin"), [(0, (0, 0, 0)), (1, (900, 0, 0))])
def test_a_mask_outside_the_scan_is_refused(save, noise, fill, origin):
    mask = save(np.full(SHAPE, fill, np.uint8), affine(np.eye(3), origin=origin), "m.nii.gz")
    with pytest.raises(
        preprocessing.BadScan, match="empty mask: no voxel of m.nii.gz above 0 lies on the scan; are both"
    ):
        preprocessing.prepare(save(noise), mask=mask, **GRID)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"spacing_mm": 0}, "spacing_mm must be above 0; got 0"),
        ({"shape": (8, 8)}, "shape must be three whole numbers of voxels above 0; got (8, 8)"),
        ({"bias_field": "n3"}, "bias_field must be none or n4; got n3"),
        ({"skull_strip": "bet"}, "skull_strip must be none, deepbet, synthstrip or hd-bet; got bet"),
        ({"percentiles": (99, 1)}, "percentiles must be low < high within 0 and 100; got (99, 1)"),
    ],
)
def test_an_invalid_setting_stops_the_shard(tmp_path, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        preprocessing.prepare_shard(pd.DataFrame(), tmp_path / "out", **GRID | setting)
    assert not (tmp_path / "out").exists()


def test_volumes_are_read_as_written(tmp_path, noise):
    array = (noise - 50) / 50
    array.flat[:2] = 0, 1
    for name, to_world in AFFINES.items():
        nifti.write_volume(tmp_path / "v.nii.gz", array, to_world)
        back, again = nifti.read_volume(tmp_path / "v.nii.gz")
        np.testing.assert_allclose(back, array, rtol=0, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(again, to_world, atol=1e-5, err_msg=name)
        assert back.dtype == np.float32 and (back.flat[0], back.flat[1]) == (0, 1)
        image = nib.load(tmp_path / "v.nii.gz")
        assert image.get_data_dtype() == np.int16 and image.header.get_xyzt_units()[0] == "mm"
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        np.testing.assert_allclose(image.get_qform(), to_world, atol=1e-4, err_msg=name)


def test_equal_volumes_give_equal_bytes(tmp_path, noise, monkeypatch):
    nifti.write_volume(tmp_path / "a.nii.gz", noise / 100, PSR)
    monkeypatch.setattr("time.time", lambda: 1e9)
    nifti.write_volume(tmp_path / "b.nii.gz", noise / 100, PSR)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.01])
def test_a_volume_outside_0_to_1_is_refused(tmp_path, noise, bad):
    noise = noise / 100
    noise[0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"a volume must be 3D within 0..1; got shape \(10, 20, 30\) within"):
        nifti.write_volume(tmp_path / "v.nii.gz", noise, RAS)
    with pytest.raises(ValueError, match="the name of a volume must end in .nii.gz; got v.nii"):
        nifti.write_volume(tmp_path / "v.nii", noise, RAS)
    assert not list(tmp_path.iterdir())


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_rename_stops_the_shard(tmp_path, save, noise, monkeypatch):
    table = table_of(good=save(noise))
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        preprocessing.prepare_shard(table, tmp_path / "out", **GRID)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_stops_the_shard_and_leaves_no_partial_file(tmp_path, save, noise):
    out = tmp_path / "out"
    out.mkdir()
    (out / f".good.nii.gz.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        preprocessing.prepare_shard(table_of(good=save(noise)), out, **GRID)
    assert not list(out.iterdir())


def table_of(**files):
    rows = [{"scan": scan, "file": str(file), "participant": scan, "split": "train"} for scan, file in files.items()]
    return pd.DataFrame(rows).assign(mask="", problem="")


def test_the_old_volume_of_an_excluded_scan_is_removed(tmp_path, save, noise):
    table = table_of(s=save(noise))
    preprocessing.prepare_shard(table, tmp_path / "out", **GRID)
    save(0 * noise)
    assert preprocessing.prepare_shard(table, tmp_path / "out", **GRID)["status"].tolist() == ["quarantined"]
    assert not list((tmp_path / "out").iterdir())


def test_an_unexpected_error_excludes_one_scan(tmp_path, save, noise, monkeypatch):
    def fail(*_, **__):
        raise IndexError("list index out of range")

    monkeypatch.setattr(preprocessing, "_resample", fail)
    qc = preprocessing.prepare_shard(table_of(s=save(noise)), tmp_path / "out", **GRID)
    assert qc["reason"].tolist() == ["unexpected IndexError: list index out of range"]


def test_progress_is_logged_every_twenty_scans(tmp_path, caplog):
    caplog.set_level("INFO")
    table = table_of(**{f"s{k}": "nowhere.nii.gz" for k in range(41)})
    preprocessing.prepare_shard(table, tmp_path / "out", **GRID)
    progress = [message for message in caplog.messages if "per second" in message]
    assert [message.split(",")[0] for message in progress] == ["20 of 41 scans", "40 of 41 scans", "41 of 41 scans"]


def test_the_script_divides_scans_into_shards(tmp_path, save, noise):
    table = table_of(**{name: save(noise, name=f"{name}.nii.gz") for name in "abcde"})
    participants.write_table(table, tmp_path / "participants.tsv")
    volumes = {"spacing_mm": 2.0, "shape": [12, 24, 32], "percentiles": [0.0, 99.5]}
    config = json.dumps({"n_shards": 2, "volumes": volumes})
    for shard in range(2):
        out = str(tmp_path / "out" / str(shard))
        arguments = ["--participants", str(tmp_path / "participants.tsv"), "--shard", str(shard)]
        prepare_script.main([*arguments, "--config", config, "--out", out])
    listing = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert listing == ["0/a.nii.gz", "0/c.nii.gz", "0/e.nii.gz", "0/qc.tsv", "1/b.nii.gz", "1/d.nii.gz", "1/qc.tsv"]
    assert participants.read_table(tmp_path / "out/1/qc.tsv")["coverage"].tolist() == [1.0, 1.0]
    with pytest.raises(SystemExit, match=r"shard must be in 0\.\.1, as n_shards is 2; got 2"):
        prepare_script.main([*arguments[:-1], "2", "--config", config, "--out", out])


REAL_SCANS = pytest.mark.skipif(
    not (REAL / "ixi_t1_2mm").is_dir(), reason=f"no real scans in {REAL}; set NEUROMF_REAL_DATA to their folder"
)


def real_scans(pattern, masks=False):
    files = sorted((REAL).glob(pattern))
    table = table_of(**{f"{file.parent.name}-{file.name[:14].rstrip('-')}": file for file in files})
    if masks:
        table["mask"] = [str(file).replace("T1/", "dlmuse/").replace("-T1.", "-DLMUSE.") for file in files]
    return table


def native_at(file, points):
    """Intensities of a file at world points, by trilinear interpolation."""
    image = nib.load(file)
    voxels = nib.affines.apply_affine(np.linalg.inv(image.affine), points)
    return ndimage.map_coordinates(image.get_fdata(dtype=np.float32), voxels.T, order=1)


@REAL_SCANS
def test_real_scans_fit_the_grid(tmp_path):
    table = pd.concat(
        [real_scans("ixi_t1_2mm/T1/*.nii.gz", masks=True).iloc[:2], real_scans("ixi_t1_native/*/*.nii.gz").iloc[3:]]
    )
    qc = preprocessing.prepare_shard(table, tmp_path, spacing_mm=2.0, shape=(80, 96, 80))
    assert qc["status"].tolist() == ["accepted"] * 4
    assert qc["stripped_by"].tolist() == ["mask", "mask", "already", "none"]
    assert (qc["coverage"][:3] >= 0.999).all() and 0.5 < qc["coverage"][3] < 1
    assert qc["native_axes"].tolist() == ["PSR"] * 4 and set(qc["native_shape"][2:]) == {"256x256x150"}
    assert qc["foreground_ml"][:3].between(1000, 2100).all()
    for path in qc["volume"]:
        volume, to_world = nifti.read_volume(path)
        assert volume.shape == (80, 96, 80) and nib.aff2axcodes(to_world) == ("R", "A", "S")
        assert volume.min() == 0 and volume.max() == 1 and 0.1 < volume.mean() < 0.6


@REAL_SCANS
def test_a_real_scan_keeps_its_world_coordinates():
    (file,) = (REAL / "ixi_t1_native/raw").glob("*.nii.gz")
    volume, to_world, facts = preprocessing.prepare(file, spacing_mm=1.75, shape=(96, 96, 96))
    voxels = np.random.default_rng(0).integers(24, 72, (4000, 3))
    there = np.clip((native_at(file, nib.affines.apply_affine(to_world, voxels)) - facts["low"]) / facts["high"], 0, 1)
    here = volume[tuple(voxels.T)]
    one_aside = native_at(file, nib.affines.apply_affine(to_world, voxels + [1, 0, 0]))
    assert np.corrcoef(here, there)[0, 1] > 0.98 > np.corrcoef(here, one_aside)[0, 1] + 0.05


@REAL_SCANS
def test_raw_real_scans_keep_the_whole_brain(tmp_path):
    """Without masks the crop is centred on the head: 64^3 at 3.5 mm has the extent of studies/ixi.yaml."""
    table = real_scans("ixi_t1_2mm/T1/*.nii.gz", masks=True).iloc[::34]
    for file, mask in zip(table["file"], table["mask"], strict=True):
        _, to_world, facts = preprocessing.prepare(file, spacing_mm=3.5, shape=(64, 64, 64))
        brain = nib.load(mask)
        points = nib.affines.apply_affine(brain.affine, np.argwhere(brain.get_fdata() > 0))
        voxels = nib.affines.apply_affine(np.linalg.inv(to_world), points)
        assert facts["stripped_by"] == "none"
        assert ((voxels > -0.5) & (voxels < 63.5)).all()


@REAL_SCANS
@pytest.mark.slow
def test_every_real_scan_is_accepted(tmp_path):
    settings = {"spacing_mm": 2.0, "shape": (80, 96, 80)}
    table = pd.concat([real_scans("ixi_t1_2mm/T1/*.nii.gz", masks=True), real_scans("ixi_t1_native/brain/*.nii.gz")])
    qc = preprocessing.prepare_shard(table, tmp_path, **settings)
    assert len(qc) == 140 and (qc["status"] == "accepted").all() and (qc["coverage"] == 1).all()
