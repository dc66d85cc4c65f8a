"""Reader of scans: usable scans are read unchanged, others are refused with a reason."""

import errno
import gzip
import re
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromf.data import preprocessing, scans

SHAPE = (10, 20, 30)
GRID = {"spacing_mm": 2.0, "shape": (12, 24, 32)}
RAS = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), (-11, -17, 23))


def table_of(**files):
    rows = [{"scan": scan, "file": str(file), "participant": scan, "split": "train"} for scan, file in files.items()]
    return pd.DataFrame(rows).assign(mask="", problem="")


def written(path, image=None, data=None, folder=False):
    if folder:
        path.mkdir()
    if image is not None:
        nib.save(image, path)
    if data is not None:
        path.write_bytes(data)


def image_with(data, to_world=RAS):
    return nib.Nifti1Image(np.asarray(data), to_world)


def header_with(data=None, **fields):
    """The bytes of a small scan with changed header fields."""
    data = np.ones(SHAPE, np.float32) if data is None else data.reshape(SHAPE)
    raw = bytearray(image_with(data).to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    return gzip.compress(header.binaryblock + bytes(raw[348:]))


def broken(noise, values):
    noise.flat[: len(values)] = values
    return noise


def bad_files(noise):
    """Bad inputs: how each is written, and its error message."""
    whole = image_with(noise).to_bytes()
    packed = gzip.compress(whole)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    spoiled = np.array([np.nan, np.nan, np.inf], np.float32)
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    shear = nib.affines.from_matvec(2 * (np.eye(3) + np.diag([0.1, 0], 1)), (-11, -17, 23))
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
            "not 3D: {name} has shape 10x20x30x2, expected",
        ),
        "two axes": ({"image": image_with(noise[0])}, "not 3D: {name} has shape 20x30, expected three axes"),
        "one slice": ({"image": image_with(noise[:, :, :1])}, "not 3D: {name} has shape 10x20x1, expected three axes"),
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
        "complex": (
            {"image": image_with(noise.astype(np.complex64))},
            "not numbers: {name} stores complex64, expected",
        ),
        "NaN": (
            {"image": image_with(broken(noise.copy(), spoiled))},
            "not finite: {name} has 2 NaN and 1 Inf among 6000",
        ),
        "beyond float32": (
            {"image": image_with(broken(noise.astype(np.float64), np.array([1e300])))},
            "not finite: {name} has 0 NaN and 1 Inf among 6000 voxels",
        ),
        "slope beyond float32": (
            {"data": header_with(np.arange(6000, dtype=np.int16), scl_slope=1e38)},
            "not finite: {name} has 0 NaN and 5996 Inf among 6000 voxels",
        ),
        "intercept NaN": (
            {"data": header_with(scl_slope=1, scl_inter=np.nan)},
            "unreadable: {name} cannot be read as NIfTI (Valid slope but invalid intercept nan)",
        ),
        "gzip bomb": (
            {"data": gzip.compress(whole + bytes(1 << 25), compresslevel=9)},
            "too long: {name} unpacks to more than the 10x20x30 voxels that its header claims",
        ),
        "folder": ({"folder": True}, "not a file: {path} is a folder; correct the pattern"),
        "constant": ({"image": image_with(0 * noise)}, "constant: every voxel of {name} is 0; export the scan again"),
    }


@pytest.mark.parametrize("what", bad_files(np.ones(SHAPE, np.float32)))
def test_an_unusable_scan_is_refused_with_a_reason(tmp_path, noise, what):
    how, message = bad_files(noise)[what]
    path = tmp_path / "a scan.nii.gz"
    written(path, **how)
    with pytest.raises(scans.BadScan, match="^" + re.escape(message.format(path=path, name=path.name))):
        scans.read_scan(path)


def test_another_format_and_a_truncated_plain_file_are_refused(tmp_path, noise):
    nib.save(nib.MGHImage(noise, RAS), tmp_path / "scan.mgz")
    with pytest.raises(scans.BadScan, match="not NIfTI: scan.mgz is MGHImage; convert it to .nii.gz"):
        scans.read_scan(tmp_path / "scan.mgz")
    (tmp_path / "scan.nii").write_bytes(image_with(noise).to_bytes()[:5000])
    with pytest.raises(scans.BadScan, match="damaged: the data of scan.nii end too early"):
        scans.read_scan(tmp_path / "scan.nii")


def test_a_wrong_checksum_after_valid_data_is_detected(tmp_path):
    packed = bytearray(gzip.compress(image_with(np.random.default_rng(0).random((64, 64, 64))).to_bytes(), 1))
    packed[-5] ^= 0xFF
    (tmp_path / "scan.nii.gz").write_bytes(packed)
    with pytest.raises(scans.BadScan, match="damaged: the data of scan.nii.gz end too early or are broken"):
        scans.read_scan(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("what", ["gigantic", "many voxels", "gzip bomb"])
def test_oversized_claims_allocate_no_memory(tmp_path, noise, what):
    path = tmp_path / "scan.nii.gz"
    written(path, **bad_files(noise)[what][0])
    tracemalloc.start()
    try:
        with pytest.raises(scans.BadScan):
            scans.read_scan(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6  # the bomb unpacks to 34 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["stat", "open"])
def test_a_scan_without_read_permission_is_refused(save, noise, monkeypatch, where):
    path = save(noise)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, where, refuse)  # root can read files of any mode
    with pytest.raises(scans.BadScan, match=f"no permission: {path} cannot be read; change its mode or that of"):
        scans.read_scan(path)


def test_a_fourth_axis_of_length_one_is_dropped(save, noise):
    image = scans.read_scan(save(noise[..., None]))
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), noise)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.img", "scan.hdr"])
def test_plain_gzipped_and_paired_files_are_read_alike(save, noise, name):
    image = scans.read_scan(save(noise - 75, name=name) if "nii" in name else pair(save, noise - 75, name))
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), noise - 75)  # negative values are kept
    np.testing.assert_allclose(image.affine, RAS)


def pair(save, data, name):
    path = save(data, name="scan.nii").with_name(name)
    nib.save(nib.Nifti1Pair(data, RAS), path)
    return path


@pytest.mark.parametrize(
    ("slope", "inter", "factor"), [(0, 7, 1), (np.nan, 0, 1), (np.inf, 0, 1), (2, 5, 2), (-0.5, 0, -0.5)]
)
def test_an_invalid_slope_is_ignored(tmp_path, slope, inter, factor):
    stored = np.arange(6000, dtype=np.int16).reshape(SHAPE)
    (tmp_path / "scan.nii.gz").write_bytes(header_with(stored, scl_slope=slope, scl_inter=inter))
    data = scans.read_scan(tmp_path / "scan.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(data, stored * factor + (inter if factor == slope else 0))


def test_padding_after_the_voxels_is_accepted(tmp_path, noise):
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(image_with(noise).to_bytes() + bytes(4096)))
    np.testing.assert_array_equal(scans.read_scan(tmp_path / "scan.nii.gz").get_fdata(dtype=np.float32), noise)


def test_bad_scans_are_excluded_and_the_others_processed(tmp_path, save, noise):
    files = {}
    for k, (how, _) in enumerate(bad_files(noise).values()):
        files[f"bad{k}"] = tmp_path / f"bad{k}.nii.gz"
        written(files[f"bad{k}"], **how)
    files |= {"good": save(noise), "twice": save(noise)}
    table = table_of(**files)
    table.loc[table["scan"] == "twice", "problem"] = "duplicate scan id: good"
    qc = preprocessing.prepare_shard(table, tmp_path / "out", **GRID)
    assert qc.columns.tolist() == preprocessing.QC_COLUMNS and qc["scan"].tolist() == list(files)
    good = qc[qc["status"] == "accepted"]
    assert good["volume"].tolist() == [str(tmp_path / "out/good.nii.gz")]
    assert good[["reason", "coverage", "native_shape", "native_axes"]].values.tolist() == [["", 1.0, "10x20x30", "RAS"]]
    bad = qc[qc["status"] == "quarantined"]
    assert len(bad) == len(files) - 1 and (bad["reason"] != "").all()
    assert bad[["coverage", "foreground_ml", "mean"]].isna().all(axis=None)
    assert bad["reason"].tolist()[-1] == "duplicate scan id: good" and (bad["volume"] == "").all()
    assert not bad["reason"].str.startswith("unexpected").any()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_machine_errors_stop_the_shard(tmp_path, save, noise, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(scans.nib, "load", fail)
    with pytest.raises(type(error)):
        preprocessing.prepare_shard(table_of(s=save(noise)), tmp_path / "out", **GRID)
