"""What several test files stand on: folders of files, and small scans written as NIfTI."""

import nibabel as nib
import numpy as np
import pytest

SHAPE = (10, 20, 30)
RAS = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), (-11, -17, 23))


@pytest.fixture
def folder(tmp_path):
    def make(*names, **texts):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"scan")
        for name, text in texts.items():
            (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture
def noise():
    return np.random.default_rng(0).uniform(50, 100, SHAPE).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def make(data, to_world=RAS, name="scan.nii.gz"):
        nib.save(nib.Nifti1Image(np.asarray(data, getattr(data, "dtype", np.float32)), to_world), tmp_path / name)
        return tmp_path / name

    return make
