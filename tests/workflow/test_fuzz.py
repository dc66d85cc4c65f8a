"""Random bytes and values: readers refuse them with a reason, and allocate no memory for an oversized header."""

import contextlib
import gzip
import json
import resource
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neuromf.config.study import read_config
from neuromf.data.scans import BadScan, read_scan

ROOT = Path(__file__).resolve().parents[2]
BOUNDED = settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HEADER = 352  # bytes before the voxels
SPARE = 2**29  # bytes that reading a scan of two kilobytes may take: half a gigabyte


@contextlib.contextmanager
def little_memory():
    """Limit the address space to SPARE bytes beyond what is used now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def scan():
    """The bytes of a small scan that can be read."""
    data = np.random.default_rng(0).integers(0, 100, (6, 7, 8)).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1]))
    image.set_sform(image.affine, 1)
    return image.to_bytes()


def read(tmp_path, content, name):
    """The image, or the sentence in which it was refused; anything else is a failure of the reader."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    with little_memory():
        try:
            return read_scan(path)
        except BadScan as refusal:
            return str(refusal)


def with_field(content, place, form, *values):
    found = bytearray(content)
    struct.pack_into(form, found, place, *values)
    return bytes(found)


# --- NIfTI -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_the_unchanged_scan_can_be_read(tmp_path, scan, name):
    assert read(tmp_path, scan, name).shape == (6, 7, 8)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize(
    ("shape", "reason"),
    [((30000, 30000, 30000), "too large"), ((1024, 1024, 1024), "damaged"), ((6, 7, 9), "damaged")],
)
def test_an_oversized_header_takes_no_memory(tmp_path, scan, name, shape, reason):
    message = read(tmp_path, with_field(scan, 42, "<3h", *shape), name)
    assert isinstance(message, str) and message.startswith(reason), message


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@BOUNDED
@given(changes=st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_bytes_in_the_header(tmp_path, scan, name, changes):
    found = bytearray(scan)
    for place, value in changes:
        found[place] = value
    result = read(tmp_path, bytes(found), name)
    assert isinstance(result, str) or np.isfinite(result.get_fdata()).all()


FIELDS = {  # of the header: where they stand and what they are
    "sizeof_hdr": (0, "<i"),
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "bitpix": (72, "<h"),
    "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"),
    "scl_slope": (112, "<f"),
    "scl_inter": (116, "<f"),
    "codes": (252, "<2h"),
    "srow": (280, "<12f"),
    "extension": (348, "<4B"),
}


@BOUNDED
@given(data=st.data(), name=st.sampled_from(["scan.nii", "scan.nii.gz"]))
def test_any_value_in_any_field(tmp_path, scan, data, name):
    place, form = FIELDS[data.draw(st.sampled_from(sorted(FIELDS)))]
    kinds = {"h": st.integers(-(2**15), 2**15 - 1), "i": st.integers(-(2**31), 2**31 - 1)}
    kinds |= {"f": st.floats(width=32), "B": st.integers(0, 255)}
    n = struct.calcsize(form) // struct.calcsize(form[0] + form[-1])
    values = data.draw(st.lists(kinds[form[-1]], min_size=n, max_size=n))
    result = read(tmp_path, with_field(scan, place, form, *values), name)
    assert isinstance(result, str) or np.isfinite(result.get_fdata()).all()


@BOUNDED
@given(content=st.binary(max_size=600), name=st.sampled_from(["scan.nii", "scan.nii.gz"]))
@example(content=b"", name="scan.nii")
@example(content=b"\x1f\x8b\x08", name="scan.nii")
def test_any_bytes_at_all(tmp_path, content, name):
    assert isinstance(read(tmp_path, content, name), str)


@BOUNDED
@given(content=st.binary(max_size=200))
def test_any_bytes_under_the_name_of_a_gzip_file(tmp_path, content):
    path = tmp_path / "raw.nii.gz"
    path.write_bytes(content)
    with pytest.raises(BadScan):
        read_scan(path)


# --- the config --------------------------------------------------------------------------------------

STUDY = yaml.safe_load((ROOT / "config.yaml").read_text())
NAMES = st.sampled_from(sorted({key for section in STUDY.values() if isinstance(section, dict) for key in section}))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=8), st.just("1e3")
)
FREE = {"ablations", "arms", "gates"}  # keys below are names that the study chooses, checked where they are used
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(values, path=()):
    """Every key of the study, each as the way to it."""
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def result_of(study):
    """The study as typed values, or the lines in which it was refused."""
    try:
        return read_config(study)
    except SystemExit as refusal:
        assert str(refusal).startswith("config refused, nothing was run:\n  ")
        return str(refusal)


def changed(path, value):
    study = json.loads(json.dumps(STUDY))
    section = study
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return study


@BOUNDED
@given(path=st.sampled_from(list(places(STUDY))), value=ANYTHING)
def test_any_value_at_any_key(path, value):
    result_of(changed(path, value))


@BOUNDED
@given(
    path=st.sampled_from([path for path in places(STUDY) if not FREE & {*path[:-1]}]),
    key=st.text(min_size=1, max_size=12),
    value=ANYTHING,
)
def test_any_key_anywhere_is_known_or_refused(path, key, value):
    result = result_of(changed((*path[:-1], key), value))
    assert isinstance(result, str) or key in str(result)


@BOUNDED
@given(study=st.dictionaries(st.sampled_from(sorted(STUDY)) | st.text(max_size=8), ANYTHING, max_size=6))
def test_a_config_of_anything(study):
    assert isinstance(result_of(study), str)
