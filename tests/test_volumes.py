"""NIfTI in and out: the affine stays true, and what cannot be used is set aside with its reason."""

import errno
import gzip
import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromf import cohort, volumes
from workflow_scripts import prepare as prepare_script

SHAPE = (10, 20, 30)
GRID = {"spacing_mm": 2.0, "shape": (12, 24, 32)}
REAL = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[1] / "../shared/data"))


def rotation(degrees, axis=2):
    """A turn around one axis, 3x3."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(3)
    first, second = (k for k in range(3) if k != axis)
    turn[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
    return turn


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
def noise():
    return np.random.default_rng(0).uniform(50, 100, SHAPE).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def make(data, to_world=RAS, name="scan.nii.gz"):
        nib.save(nib.Nifti1Image(np.asarray(data, getattr(data, "dtype", np.float32)), to_world), tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def everywhere(save):
    """A mask of all voxels."""
    return lambda to_world, shape=SHAPE: save(np.ones(shape, np.uint8), to_world, "mask.nii.gz")


def worlds(shape, to_world):
    """World position of each voxel, with shape (I, J, K, 3)."""
    return nib.affines.apply_affine(to_world, np.stack(np.indices(shape), axis=-1))


def ramp(points):
    return points @ [1.0, 2.0, -3.0] + 200


# The affine


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing_mm", [1.3, 2.0, 2.9])
def test_a_field_of_world_coordinates_is_still_one(save, everywhere, name, spacing_mm):
    native = AFFINES[name]
    path = save(ramp(worlds(SHAPE, native)).astype(np.float32), native)
    settings = {"spacing_mm": spacing_mm, "shape": (50, 50, 50), "percentiles": (0, 100)}
    volume, to_world, facts = volumes.prepare(path, mask=everywhere(native), **settings)
    found = facts["low"] + volume * (facts["high"] - facts["low"])
    points = worlds(volume.shape, to_world)
    voxels = nib.affines.apply_affine(np.linalg.inv(native), points)
    within = ((voxels >= 4) & (voxels <= np.array(SHAPE) - 5)).all(axis=-1)
    assert within.sum() > 40
    np.testing.assert_allclose(found[within], ramp(points)[within], atol=2e-3)


@pytest.mark.parametrize("name", AFFINES)
def test_a_marked_voxel_keeps_its_place_to_half_a_voxel(save, everywhere, noise, name):
    noise[3, 14, 22] = 1000
    path, native = save(noise, AFFINES[name]), AFFINES[name]
    settings = {"spacing_mm": 1.5, "shape": (40, 32, 24), "percentiles": (0, 100)}
    volume, to_world, _ = volumes.prepare(path, mask=everywhere(native), **settings)
    place = nib.affines.apply_affine(native, (3, 14, 22))
    found = np.unravel_index(volume.argmax(), volume.shape)
    assert np.abs(nib.affines.apply_affine(np.linalg.inv(to_world), place) - found).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("name", AFFINES)
def test_axes_become_ras_and_voxels_isotropic_of_the_asked_size(save, noise, name):
    volume, to_world, facts = volumes.prepare(save(noise, AFFINES[name]), **GRID)
    assert volume.shape == GRID["shape"] and volume.dtype == np.float32 and to_world.dtype == np.float64
    assert "".join(nib.aff2axcodes(to_world)) == "RAS"
    np.testing.assert_allclose(nib.affines.voxel_sizes(to_world), 2.0, rtol=1e-6)
    assert facts["native_shape"] == "10x20x30"
    assert facts["native_axes"] == "".join(nib.aff2axcodes(AFFINES[name]))
    assert (facts["oblique_deg"] > 1) == (name in {"oblique", "oblique PSR", "anisotropic"})


def test_like_grids_are_only_cut_and_lose_nothing(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:9, 2:18, 5:25] = 1
    settings = {"spacing_mm": 2.0, "shape": (8, 16, 20), "percentiles": (0, 100), "mask": save(mask, name="m.nii.gz")}
    volume, to_world, facts = volumes.prepare(save(noise), **settings)
    cut = noise[1:9, 2:18, 5:25]
    np.testing.assert_allclose(volume, (cut - cut.min()) / (cut.max() - cut.min()), atol=1e-6)
    np.testing.assert_allclose(to_world[:3, 3], nib.affines.apply_affine(RAS, (1, 2, 5)))
    assert facts["coverage"] == 1 and facts["native_spacing_mm"] == "2.00x2.00x2.00"


def test_a_stripe_finer_than_the_new_grid_fades_instead_of_aliasing(save, everywhere):
    stripes = np.broadcast_to(100.0 * (np.arange(30) % 2), (12, 12, 30)).astype(np.float32)
    fine = affine(np.eye(3), sizes=(2.2, 2.2, 1))
    settings = {
        "spacing_mm": 2.2,
        "shape": (12, 12, 14),
        "percentiles": (0, 100),
        "mask": everywhere(fine, (12, 12, 30)),
    }
    facts = volumes.prepare(save(stripes, fine), **settings)[2]
    assert 20 < facts["low"] and facts["high"] < 80
    settings["spacing_mm"] = 1.4
    facts = volumes.prepare(save(stripes, fine), **settings)[2]
    assert facts["low"] < 1 and facts["high"] > 99


# Foreground, window, coverage


def test_coverage_is_the_share_of_the_mask_inside_the_crop(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :, 10:20] = 1  # 10 x 20 x 10 voxels, of which 5 x 20 x 4 fit
    settings = {"spacing_mm": 2.0, "shape": (5, 24, 4), "mask": save(mask, name="m.nii.gz")}
    volume, to_world, facts = volumes.prepare(save(noise), **settings)
    assert facts["coverage"] == 0.2
    np.testing.assert_allclose(to_world[:3, 3], nib.affines.apply_affine(RAS, (2, -2, 13)))
    assert (volume[:, :2] == 0).all() and (volume[:, 22:] == 0).all()


def test_a_mask_on_another_grid_is_matched_in_the_world(save):
    """A box in mm, given on a finer, turned-over grid: inside it all voxels stay, outside all go."""
    other = affine(np.diag([-1, 1, -1]), sizes=(1, 1, 1), origin=(12, -20, 85))
    low, high = np.array([-8.2, -12.2, 32.2]), np.array([2.2, 10.2, 60.2])
    inside = ((worlds((30, 50, 65), other) > low) & (worlds((30, 50, 65), other) < high)).all(axis=-1)
    data = np.full(SHAPE, 100, np.float32)
    data[::2] = 60
    settings = {"spacing_mm": 2.0, "shape": (10, 20, 30), "percentiles": (0, 100)}
    path = save(data - 10 * (np.indices(SHAPE)[1] == 0))
    volume, to_world, _ = volumes.prepare(path, mask=save(inside.astype(np.int16) * 7, other, "m.nii.gz"), **settings)
    points = worlds(volume.shape, to_world)
    wanted = ((points > low) & (points < high)).all(axis=-1) & (np.abs(points[..., 0] - low[0]) > 0)
    bright = np.isclose((points[..., 0] - RAS[0, 3]) / 2 % 2, 1)
    np.testing.assert_array_equal(volume, (wanted & bright).astype(np.float32))


def test_percentiles_count_inside_the_foreground_only(noise):
    inside = noise > 75
    scaled = volumes.window(noise, 0, 50, inside)
    middle = np.median(noise[inside])
    np.testing.assert_allclose(
        scaled, np.clip((noise - noise[inside].min()) / (middle - noise[inside].min()), 0, 1), atol=1e-5
    )
    np.testing.assert_allclose(volumes.window(noise, 1, 99), volumes.window(noise, 1, 99, noise > 0), atol=1e-6)


def test_negative_intensities_are_welcome(save, noise):
    shifted, _, _ = volumes.prepare(save(noise - 1000), **GRID)
    plain, _, _ = volumes.prepare(save(noise), **GRID)
    np.testing.assert_allclose(shifted, plain, atol=1e-5)


def test_the_head_holds_the_dark_inside_and_leaves_the_dark_outside():
    data = np.random.default_rng(0).uniform(0, 5, (30, 34, 38))
    distance = np.linalg.norm(worlds(data.shape, np.eye(4)) - [14, 16, 18], axis=-1)
    data[(distance < 10) & (distance > 6)] += 100  # a shell with dark inside,
    data[14, 16, 18:] += 5  # a canal that leads there,
    data[14, 16, 24:28] = 0
    data[1, 1, 1] = 10000  # and one broken voxel
    inside = volumes.head(data)
    assert inside[distance < 10].all() and not inside[distance > 13].any()


def test_a_head_without_a_mask_is_put_in_the_middle(save, noise):
    data = np.zeros((24, 30, 30), np.float32)
    data[12:20, 5:15, 9:21] = 100 + noise[:8, :10, :12]
    volume, _, facts = volumes.prepare(save(data), spacing_mm=2.0, shape=(16, 16, 16))
    bright = np.argwhere(volume > 0.3)
    np.testing.assert_array_equal((bright.min(axis=0) + bright.max(axis=0) + 1) / 2, (8, 8, 8))
    assert facts["coverage"] == 1


# What cannot be used


def written(path, image=None, data=None):
    if image is not None:
        nib.save(image, path)
    if data is not None:
        path.write_bytes(data)


def image_with(data, to_world=RAS):
    return nib.Nifti1Image(np.asarray(data), to_world)


def header_with(**fields):
    """The bytes of a small scan whose header was tampered with after it was written."""
    raw = bytearray(image_with(np.ones(SHAPE, np.float32)).to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    return gzip.compress(header.binaryblock + bytes(raw[348:]))


def broken(noise, values):
    noise.flat[: len(values)] = values
    return noise


def bad_files(noise):
    """Each bad input as (how it is written, what is said)."""
    whole = image_with(noise).to_bytes()
    packed = gzip.compress(whole)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    spoiled = np.array([np.nan, np.nan, np.inf], np.float32)
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    shear = affine(np.eye(3) + np.diag([0.1, 0], 1))
    too_long = header_with(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    return {
        "missing": ({}, "missing file: {path} does not exist"),
        "zero bytes": ({"data": b""}, "empty file: {name} has 0 bytes; copy or download it again"),
        "truncated gzip": ({"data": packed[: len(packed) // 2]}, "damaged: the data of {name} end too early or are"),
        "flipped byte": ({"data": bytes(flipped)}, "damaged: the data of {name} end too early or are broken"),
        "truncated header": ({"data": gzip.compress(whole[:200])}, "unreadable: {name} cannot be read as NIfTI"),
        "text": ({"data": b"not a scan at all"}, "unreadable: {name} cannot be read as NIfTI"),
        "packed text": ({"data": gzip.compress(b"words " * 999)}, "unreadable: {name} cannot be read as NIfTI"),
        "four axes": (
            {"image": image_with(np.stack([noise, noise], -1))},
            "not 3D: {name} has shape 10x20x30x2, wanted",
        ),
        "two axes": ({"image": image_with(noise[0])}, "not 3D: {name} has shape 20x30, wanted three axes"),
        "one slice": ({"image": image_with(noise[:, :, :1])}, "not 3D: {name} has shape 10x20x1, wanted three axes"),
        "gigantic": (
            {"data": too_long},
            "too large: the header of {name} claims 30000x30000x30000 voxels, at most 1024",
        ),
        "many voxels": (
            {"data": header_with(dim=[3, 1024, 1024, 1025, 1, 1, 1, 1])},
            "too large: the header of {name} claims 1024x1024x1025 voxels",
        ),
        "no voxels": (
            {"data": header_with(dim=[3, 10, 0, 30, 1, 1, 1, 1])},
            "empty: {name} has shape 10x0x30, so no voxels",
        ),
        "voxel size 0": (
            {"data": header_with(pixdim=[1, 2, 0, 2, 0, 0, 0, 0])},
            "no voxel size: {name} has voxels of 2x0x2 mm and affine",
        ),
        "voxel size NaN": (
            {"data": header_with(pixdim=[1, 2, 2, np.nan, 0, 0, 0, 0])},
            "no voxel size: {name} has voxels of 2x2xnan mm",
        ),
        "flat affine": ({"data": header_with(srow_z=0)}, "no voxel size: {name} has voxels of 2x2x2 mm and affine"),
        "NaN affine": ({"data": header_with(srow_z=np.nan)}, "no voxel size: {name} has voxels of 2x2x2 mm and affine"),
        "no orientation": (
            {"data": header_with(sform_code=0, qform_code=0)},
            "no orientation: sform_code and qform_code of {name}",
        ),
        "sheared": (
            {"image": image_with(noise, to_world=shear)},
            "sheared: axes of {name} are 5.7 degrees off a right",
        ),
        "colour": ({"image": image_with(colour)}, "not numbers: {name} stores"),
        "complex": ({"image": image_with(noise.astype(np.complex64))}, "not numbers: {name} stores complex64, wanted"),
        "NaN": (
            {"image": image_with(broken(noise.copy(), spoiled))},
            "not finite: {name} has 2 NaN and 1 Inf among 6000",
        ),
        "beyond float32": (
            {"image": image_with(broken(noise.astype(np.float64), np.array([1e300])))},
            "not finite: {name} has 0 NaN and 1 Inf among 6000 voxels",
        ),
        "constant": ({"image": image_with(0 * noise)}, "constant: every voxel of {name} is 0; export the scan again"),
    }


@pytest.mark.parametrize("what", bad_files(np.ones(SHAPE, np.float32)))
def test_a_scan_that_cannot_be_used_says_why_in_a_sentence(tmp_path, noise, what):
    how, message = bad_files(noise)[what]
    path = tmp_path / "a scan.nii.gz"
    written(path, **how)
    with pytest.raises(volumes.BadScan, match="^" + re.escape(message.format(path=path, name=path.name))):
        volumes.prepare(path, **GRID)


def test_another_format_and_a_truncated_plain_file_are_refused_too(tmp_path, noise):
    nib.save(nib.MGHImage(noise, RAS), tmp_path / "scan.mgz")
    with pytest.raises(volumes.BadScan, match="not NIfTI: scan.mgz is MGHImage; convert it to .nii.gz"):
        volumes.read_scan(tmp_path / "scan.mgz")
    (tmp_path / "scan.nii").write_bytes(image_with(noise).to_bytes()[:5000])
    with pytest.raises(volumes.BadScan, match="damaged: the data of scan.nii end too early"):
        volumes.read_scan(tmp_path / "scan.nii")


def test_a_fourth_axis_of_length_one_is_dropped(save, noise):
    image = volumes.read_scan(save(noise[..., None]))
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), noise)


def test_a_scan_that_is_constant_inside_its_mask_is_refused(save, noise):
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :, 5:25] = 1
    with pytest.raises(volumes.BadScan, match="constant: inside its foreground scan.nii.gz is 7 from percentile to"):
        volumes.prepare(save(np.where(mask, 7, noise)), mask=save(mask, name="m.nii.gz"), **GRID)


@pytest.mark.parametrize(("fill", "origin"), [(0, (0, 0, 0)), (1, (900, 0, 0))])
def test_a_mask_that_misses_the_scan_is_named(save, noise, fill, origin):
    mask = save(np.full(SHAPE, fill, np.uint8), affine(np.eye(3), origin=origin), "m.nii.gz")
    with pytest.raises(volumes.BadScan, match="empty mask: no voxel of m.nii.gz above 0 lies on the scan; are both"):
        volumes.prepare(save(noise), mask=mask, **GRID)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"spacing_mm": 0}, "spacing_mm must be above 0; got 0"),
        ({"shape": (8, 8)}, "shape must be three whole numbers of voxels above 0; got (8, 8)"),
        ({"percentiles": (99, 1)}, "percentiles must be low < high within 0 and 100; got (99, 1)"),
    ],
)
def test_a_wrong_setting_stops_the_shard_instead_of_setting_scans_aside(tmp_path, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        volumes.prepare_shard(pd.DataFrame(), tmp_path / "out", **GRID | setting)
    assert not (tmp_path / "out").exists()


# Writing


def test_what_is_written_is_read_again(tmp_path, noise):
    array = (noise - 50) / 50
    array.flat[:2] = 0, 1
    for name, to_world in AFFINES.items():
        volumes.write_volume(tmp_path / "v.nii.gz", array, to_world)
        back, again = volumes.read_volume(tmp_path / "v.nii.gz")
        np.testing.assert_allclose(back, array, rtol=0, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(again, to_world, atol=1e-5, err_msg=name)
        assert back.dtype == np.float32 and (back.flat[0], back.flat[1]) == (0, 1)
        image = nib.load(tmp_path / "v.nii.gz")
        assert image.get_data_dtype() == np.int16 and image.header.get_xyzt_units()[0] == "mm"
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        np.testing.assert_allclose(image.get_qform(), to_world, atol=1e-4, err_msg=name)


def test_the_same_volume_gives_the_same_bytes(tmp_path, noise, monkeypatch):
    volumes.write_volume(tmp_path / "a.nii.gz", noise / 100, PSR)
    monkeypatch.setattr("time.time", lambda: 1e9)
    volumes.write_volume(tmp_path / "b.nii.gz", noise / 100, PSR)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.01])
def test_a_volume_outside_0_to_1_is_refused(tmp_path, noise, bad):
    noise = noise / 100
    noise[0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"a volume must be 3D within 0..1; got shape \(10, 20, 30\) within"):
        volumes.write_volume(tmp_path / "v.nii.gz", noise, RAS)
    with pytest.raises(ValueError, match="the name of a volume must end in .nii.gz; got v.nii"):
        volumes.write_volume(tmp_path / "v.nii", noise, RAS)
    assert not list(tmp_path.iterdir())


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_stops_the_shard_and_leaves_nothing_half_written(tmp_path, save, noise, monkeypatch):
    table = table_of(good=save(noise))
    monkeypatch.setattr(volumes.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        volumes.prepare_shard(table, tmp_path / "out", **GRID)
    assert not list((tmp_path / "out").iterdir())


# Shards


def table_of(**files):
    rows = [{"scan": scan, "file": str(file), "person": scan, "split": "train"} for scan, file in files.items()]
    return pd.DataFrame(rows).assign(mask="", problem="")


def test_bad_scans_are_set_aside_and_the_rest_goes_on(tmp_path, save, noise):
    files = {}
    for k, (how, _) in enumerate(bad_files(noise).values()):
        files[f"bad{k}"] = tmp_path / f"bad{k}.nii.gz"
        written(files[f"bad{k}"], **how)
    files |= {"good": save(noise), "twice": save(noise)}
    table = table_of(**files)
    table.loc[table["scan"] == "twice", "problem"] = "duplicate scan id: good"
    qc = volumes.prepare_shard(table, tmp_path / "out", **GRID)
    assert qc.columns.tolist() == volumes.QC_COLUMNS and qc["scan"].tolist() == list(files)
    good = qc[qc["status"] == "accepted"]
    assert good["volume"].tolist() == [str(tmp_path / "out/good.nii.gz")]
    assert good[["reason", "coverage", "native_shape", "native_axes"]].values.tolist() == [["", 1.0, "10x20x30", "RAS"]]
    bad = qc[qc["status"] == "quarantined"]
    assert len(bad) == len(files) - 1 and (bad["reason"] != "").all() and bad["coverage"].isna().all()
    assert bad["reason"].tolist()[-1] == "duplicate scan id: good" and (bad["volume"] == "").all()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


def test_a_volume_of_an_earlier_run_goes_when_its_scan_is_set_aside(tmp_path, save, noise):
    table = table_of(s=save(noise))
    volumes.prepare_shard(table, tmp_path / "out", **GRID)
    save(0 * noise)
    assert volumes.prepare_shard(table, tmp_path / "out", **GRID)["status"].tolist() == ["quarantined"]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_trouble_of_the_machine_is_not_blamed_on_a_scan(tmp_path, save, noise, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(volumes, "_resample", fail)
    with pytest.raises(type(error)):
        volumes.prepare_shard(table_of(s=save(noise)), tmp_path / "out", **GRID)


def test_an_unexpected_error_sets_one_scan_aside_with_its_type(tmp_path, save, noise, monkeypatch):
    def fail(*_, **__):
        raise IndexError("list index out of range")

    monkeypatch.setattr(volumes, "_resample", fail)
    qc = volumes.prepare_shard(table_of(s=save(noise)), tmp_path / "out", **GRID)
    assert qc["reason"].tolist() == ["unexpected IndexError: list index out of range"]


def test_progress_is_told_every_twenty_scans(tmp_path, caplog):
    caplog.set_level("INFO")
    table = table_of(**{f"s{k}": "nowhere.nii.gz" for k in range(41)})
    volumes.prepare_shard(table, tmp_path / "out", **GRID)
    told = [message for message in caplog.messages if "per second" in message]
    assert [message.split(",")[0] for message in told] == ["20 of 41 scans", "40 of 41 scans", "41 of 41 scans"]


def test_shards_of_the_script_share_the_scans_out(tmp_path, save, noise):
    table = table_of(**{name: save(noise, name=f"{name}.nii.gz") for name in "abcde"})
    cohort.write_table(table, tmp_path / "participants.tsv")
    config = json.dumps({"n_shards": 2, "spacing_mm": 2.0, "shape": [12, 24, 32], "percentiles": [0.0, 99.5]})
    for shard in range(2):
        out = str(tmp_path / "out" / str(shard))
        arguments = ["--participants", str(tmp_path / "participants.tsv"), "--shard", str(shard)]
        prepare_script.main([*arguments, "--config", config, "--out", out])
    listing = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert listing == ["0/a.nii.gz", "0/c.nii.gz", "0/e.nii.gz", "0/qc.tsv", "1/b.nii.gz", "1/d.nii.gz", "1/qc.tsv"]
    assert cohort.read_table(tmp_path / "out/1/qc.tsv")["coverage"].tolist() == [1.0, 1.0]
    with pytest.raises(SystemExit, match=r"--shard must be in 0\.\.1, as n_shards is 2; got 2"):
        prepare_script.main([*arguments[:-1], "2", "--config", config, "--out", out])


# Real heads


@pytest.mark.skipif(not (REAL / "ixi_t1_2mm").is_dir(), reason=f"no real heads in {REAL}; set NEUROMF_REAL_DATA")
def test_real_heads_fit_the_grid(tmp_path):
    regex = r"(?P<scan>(?P<person>IXI\d+)-(?P<site>\w+)-\d+)-T1"
    two_mm = {"participants": "participants.tsv", "masks": "dlmuse/{scan}-DLMUSE.nii.gz"}
    heads = cohort.read_folder(REAL / "ixi_t1_2mm", "T1/*.nii.gz", regex, **two_mm)
    assert (heads["problem"] == "").all() and heads["person"].is_unique and heads["age"].notna().sum() == 132
    native = cohort.read_folder(REAL / "ixi_t1_native", "raw/*.nii.gz", regex)
    table = pd.concat([heads.iloc[:2], native.iloc[:1]]).assign(split="train")
    qc = volumes.prepare_shard(table, tmp_path, spacing_mm=2.0, shape=(80, 96, 80))
    assert qc["status"].tolist() == ["accepted"] * 3
    assert (qc["coverage"][:2] >= 0.999).all() and 0.5 < qc["coverage"][2] < 1
    assert qc["native_axes"].tolist() == ["PSR"] * 3 and qc["native_shape"][2] == "256x256x150"
    for path in qc["volume"]:
        volume, to_world = volumes.read_volume(path)
        assert volume.shape == (80, 96, 80) and nib.aff2axcodes(to_world) == ("R", "A", "S")
        assert volume.min() == 0 and volume.max() == 1 and 0.1 < volume.mean() < 0.6
