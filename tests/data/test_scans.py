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


# --- headers as they come ----------------------------------------------------------------------------


def two_affines(noise, sform=RAS, qform=RAS, codes=(1, 1)):
    raw = image_with(noise).to_bytes()
    header = nib.Nifti1Header(raw[:348])
    header.set_qform(qform, code=codes[1])
    header.set_sform(sform, code=codes[0])
    return gzip.compress(header.binaryblock + raw[348:])


MIRROR, SWAP = np.diag([-1.0, 1, 1, 1]), np.eye(4)[[1, 0, 2, 3]]
SMALL_TURN = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.radians(4)))


@pytest.mark.parametrize(
    ("sform", "qform", "message"),
    [
        (
            RAS,
            MIRROR @ RAS,
            "two orientations: the sform of s.nii.gz has the axes RAS, its qform LAS, so left and right",
        ),
        (
            MIRROR @ RAS,
            RAS,
            "two orientations: the sform of s.nii.gz has the axes LAS, its qform RAS, so left and right",
        ),
        (SWAP @ RAS, RAS, "two orientations: the sform of s.nii.gz has the axes ARS, its qform RAS, so left and right"),
        (
            RAS @ np.diag([2, 2, 2, 1.0]),
            RAS,
            "two voxel sizes: the sform of s.nii.gz has 4x4x4 mm, its qform 2x2x2 mm; correct the wrong one",
        ),
    ],
)
def test_two_affines_that_disagree_are_refused(tmp_path, noise, sform, qform, message):
    """Masks are read by the same function: their left and right must be known, too."""
    (tmp_path / "s.nii.gz").write_bytes(two_affines(noise, sform, qform))
    for read in (scans.read_scan, scans.read_image):
        with pytest.raises(scans.BadScan, match="^" + re.escape(message)):
            read(tmp_path / "s.nii.gz")


@pytest.mark.parametrize(
    ("sform", "note"),
    [
        (RAS, []),
        (RAS + np.outer([30, 0, 0, 0], [0, 0, 0, 1]), ["sform and qform differ by 30 mm and 0 degrees"]),
        (SMALL_TURN @ RAS, ["sform and qform differ by 0 mm and 4 degrees"]),
    ],
)
def test_a_shift_between_two_affines_is_a_note(tmp_path, noise, sform, note):
    (tmp_path / "s.nii.gz").write_bytes(two_affines(noise, sform))
    image = scans.read_scan(tmp_path / "s.nii.gz")
    assert [text.split(";")[0] for text in image.extra["notes"]] == note
    np.testing.assert_allclose(image.affine, sform, atol=1e-5)


@pytest.mark.parametrize("sform", [np.zeros((4, 4)), np.diag([2, 2, 0, 1.0]), np.full((4, 4), np.nan)])
def test_a_sform_that_cannot_be_used_gives_way_to_the_qform(tmp_path, noise, sform):
    (tmp_path / "s.nii.gz").write_bytes(two_affines(noise, sform, RAS))
    image = scans.read_scan(tmp_path / "s.nii.gz")
    np.testing.assert_allclose(image.affine, RAS, atol=1e-5)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), noise)
    assert image.extra["notes"] == ["the sform cannot be used; the qform is"]


@pytest.mark.parametrize("name", ["s.nii.gz", "s.nii"])
@pytest.mark.parametrize("excess", [1e-5, 4e-3])
def test_a_quaternion_off_unit_length_by_rounding_is_read(tmp_path, noise, name, excess):
    quaternion = np.array([0.6, 0.8, 0.0]) * np.sqrt(1 + excess)
    fields = dict(zip(("quatern_b", "quatern_c", "quatern_d"), quaternion, strict=True))
    data = header_with(noise, sform_code=0, qform_code=1, pixdim=[1, 2, 2, 2, 0, 0, 0, 0], **fields)
    (tmp_path / name).write_bytes(data if name.endswith(".gz") else gzip.decompress(data))
    image = scans.read_scan(tmp_path / name)
    np.testing.assert_allclose(image.affine[:3, 0], [2 * (2 * 0.36 - 1), 2 * 2 * 0.48, 0], atol=0.02)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), noise)


def test_a_quaternion_far_off_unit_length_is_refused(tmp_path, noise):
    (tmp_path / "s.nii.gz").write_bytes(header_with(noise, sform_code=0, qform_code=1, quatern_b=1, quatern_c=0.5))
    with pytest.raises(scans.BadScan, match="unreadable: s.nii.gz cannot be read as NIfTI .w2 should be positive"):
        scans.read_scan(tmp_path / "s.nii.gz")


@pytest.mark.parametrize(("unit", "per_mm"), [(1, 0.001), (2, 1), (0, 1), (3, 1000)])
def test_units_of_the_header_are_heeded(tmp_path, noise, unit, per_mm):
    to_world = np.diag([per_mm, per_mm, per_mm, 1]) @ RAS
    image = nib.Nifti1Image(noise, to_world)
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "s.nii.gz")
    found = scans.read_scan(tmp_path / "s.nii.gz")
    np.testing.assert_allclose(found.affine, RAS, rtol=1e-5)
    name = {1: ["voxel sizes in metre"], 3: ["voxel sizes in micron"]}.get(unit, [])
    assert found.extra["notes"] == name
    volume, _, facts = preprocessing.prepare(tmp_path / "s.nii.gz", **GRID)
    assert facts["extent_mm"] == "20x40x60" and facts["note"] == "".join(name) and volume.max() == 1


@pytest.mark.parametrize(
    ("unit", "size", "view"),
    [(1, 2.0, "2e+04x4e+04x6e+04"), (2, 200.0, "2000x4000x6000"), (2, 1e6, "1e+07x2e+07x3e+07")],
)
def test_a_field_of_view_beyond_a_metre_takes_no_memory(tmp_path, noise, unit, size, view):
    image = nib.Nifti1Image(noise, np.diag([size, size, size, 1]))
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "s.nii.gz")
    with pytest.raises(
        scans.BadScan, match=re.escape(f"field of view: s.nii.gz is {view} mm, at most 1000 mm are read")
    ):
        scans.read_image(tmp_path / "s.nii.gz")


def test_a_tiny_field_of_view_is_refused(tmp_path, noise):
    image = nib.Nifti1Image(noise, np.diag([2, 2, 2, 1]))
    image.header["xyzt_units"] = 3
    nib.save(image, tmp_path / "s.nii.gz")
    with pytest.raises(scans.BadScan, match="field of view: s.nii.gz is 0.02x0.04x0.06 mm, at least 10 mm are needed"):
        preprocessing.prepare(tmp_path / "s.nii.gz", **GRID)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("s.nii.gz", image_with(np.ones(SHAPE, np.float32)).to_bytes(), "wrong name: s.nii.gz is not compressed, "
         "although its name ends in .gz; rename it to s.nii"),
        ("s.nii", header_with(), "wrong name: s.nii is compressed by gzip, although its name does not end in .gz; "
         "rename it to s.nii.gz"),
        ("s.nii.gz", b"/annex/objects/MD5E-s1--0.nii.gz\n", "missing file: s.nii.gz is a pointer to content that is "
         "not on this machine; run: datalad get {path}"),
        ("s.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid", "missing file: s.nii.gz is a pointer to "
         "content that is not on this machine; run: git lfs pull --include {path}"),
        ("s.nii.gz", bytes(128) + b"DICM" + bytes(99), "DICOM: s.nii.gz is a DICOM file; convert it with dcm2niix"),
    ],
)  # fmt: skip
def test_first_bytes_that_contradict_the_name_give_the_way_out(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(scans.BadScan, match="^" + re.escape(message.format(path=path)) + "$"):
        scans.read_scan(path)


def test_a_link_without_content_says_how_to_get_it(tmp_path):
    (tmp_path / "s.nii.gz").symlink_to(".git/annex/objects/a/b/MD5E-s1--0.nii.gz")
    with pytest.raises(scans.BadScan, match=f"missing file: the content of .*; run: datalad get {tmp_path}/s.nii.gz"):
        scans.read_scan(tmp_path / "s.nii.gz")


def test_nan_of_spm_can_be_read_as_background(tmp_path, save, noise):
    noise[:2] = np.nan
    with pytest.raises(scans.BadScan, match="if NaN is the background, as in images of SPM, set volumes.nan to zero$"):
        scans.read_scan(save(noise))
    image = scans.read_scan(save(noise), nan="zero")
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), np.nan_to_num(noise))
    assert image.extra["notes"] == ["1200 NaN read as 0"]
    qc = preprocessing.prepare_shard(table_of(s=save(noise)), tmp_path / "out", **GRID, nan="zero")
    assert qc[["status", "note"]].values.tolist() == [["accepted", "1200 NaN read as 0"]]
    noise[5, 5, 5] = np.inf
    with pytest.raises(scans.BadScan, match="not finite: scan.nii.gz has 1200 NaN and 1 Inf"):
        scans.read_scan(save(noise), nan="zero")


# --- other files -------------------------------------------------------------------------------------


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
