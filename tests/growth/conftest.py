"""Folders of small multi-modal subjects, and a small simulated cohort."""

import nibabel as nib
import numpy as np
import pytest

from neuromf.data.multimodal import MODALITIES
from neuromf.simulation.tumour_cohort import simulate_cohort


def write_subject(root, name, *, shape=(12, 14, 10), spacing=2.0, codes=(0, 1, 2, 3), seed=0, **changed):
    """A folder of a subject: noise along the first axis in a box, 0 outside; `changed` has arrays of some files."""
    random, folder = np.random.default_rng([seed, *name.encode()]), root / name
    folder.mkdir(parents=True)
    inside = np.zeros(shape, np.float32)
    inside[2:-2, 2:-2, 2:-2] = 1
    seg = np.zeros(shape, np.uint8)
    box = tuple(slice(n // 2 - 2, n // 2 + 2) for n in shape)
    seg[box] = random.choice([code for code in codes if code], (4, 4, 4))
    files = {
        key: inside * random.uniform(50 + 100 * k, 100 + 100 * k, (shape[0], 1, 1)) for k, key in enumerate(MODALITIES)
    }
    for key, data in (files | {"seg": seg} | changed).items():
        affine = np.diag([spacing, spacing, spacing, 1.0])
        nib.save(nib.Nifti1Image(np.asarray(data, np.uint8 if key == "seg" else np.float32), affine),
                 folder / f"{name}-{key}.nii.gz")  # fmt: skip
    return folder


@pytest.fixture
def subject_folder(tmp_path):
    """Factory of subjects below one folder; see `write_subject`."""
    root = tmp_path / "subjects"
    root.mkdir()

    def make(*names, **settings):
        for name in names:
            write_subject(root, name, **settings)
        return root

    return make


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """A simulated cohort: 8 patients in 4 phantoms, 16^3 voxels of 12 mm."""
    root = tmp_path_factory.mktemp("cohort")
    simulate_cohort(out=root, anatomy="phantom", n_patients=8, n_anatomies=4, shape=16, spacing_mm=12.0, seed=0)
    return root
