"""Regions: the template has its own anatomy in any pose, sides are correct, and other volumes have no regions."""

import os
import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from neuromf.data.preprocessing import prepare
from neuromf.metrics.anatomy import regions, synthseg
from neuromf.simulation import brains

REAL = Path(os.environ.get("NEUROMF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
SIDES = [("left_gm", "right_gm"), ("left_wm", "right_wm"), ("left_ventricle", "right_ventricle")]


@pytest.fixture(scope="module")
def template():
    """The MNI152 T1 template at 3 mm and its affine."""
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=3)
    return image.get_fdata(dtype=np.float32).clip(0, 1), image.affine


@pytest.fixture(scope="module")
def found(template):
    return regions.volumes(template[0][None], template[1])


def posed(affine, degrees=(0, 0, 0), scale=(1, 1, 1), shift=(0, 0, 0)):
    """The affine of the same array after rotation, scaling and shift."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return nib.affines.from_matvec(turn @ np.diag(scale), shift) @ affine


# --- tissues -----------------------------------------------------------------------------------------


def test_three_gaussians_with_a_weak_prior_are_separated():
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 30_000, p=[0.2, 0.5, 0.3])
    values = np.array([0.2, 0.5, 0.8])[truth] + 0.05 * rng.standard_normal(len(truth))
    prior = np.full((len(truth), 3), 0.25) + 0.25 * np.eye(3)[truth]
    posterior = regions.tissue_posterior(values, prior, np.ones((len(truth), 1)))
    np.testing.assert_allclose(posterior.sum(1), 1)
    assert np.mean(posterior.argmax(1) == truth) > 0.995
    np.testing.assert_allclose(posterior.mean(0), [0.2, 0.5, 0.3], atol=0.01)


def test_the_receive_field_is_removed():
    rng = np.random.default_rng(0)
    truth, x = rng.choice(3, 30_000, p=[0.2, 0.5, 0.3]), rng.uniform(-1, 1, 30_000)
    clean = np.array([0.2, 0.5, 0.7])[truth] + 0.03 * rng.standard_normal(len(truth))
    prior, field = np.full((len(truth), 3), 0.3) + 0.1 * np.eye(3)[truth], np.stack([np.ones_like(x), x], 1)
    values = clean * (1 + 0.25 * x)
    right = np.mean(regions.tissue_posterior(values, prior, field).argmax(1) == truth)
    without = np.mean(regions.tissue_posterior(values, prior, field[:, :1]).argmax(1) == truth)
    assert right > 0.98 and without < 0.95


# --- the template ------------------------------------------------------------------------------------


def test_the_template_is_aligned_with_itself_from_any_pose(template):
    volume, affine = template
    matrix, fit = regions.align(volume, affine)
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3), atol=0.02)
    np.testing.assert_allclose(matrix[:3, 3], 0, atol=1.0)
    assert fit > 0.97
    moved = posed(affine, degrees=(12, -8, 15), scale=(0.85, 0.95, 0.9), shift=(30, -20, 40))
    matrix, fit = regions.align(volume, moved)
    points = nib.affines.apply_affine(affine, np.argwhere(volume > 0.5)[::50])
    there = nib.affines.apply_affine(matrix @ moved @ np.linalg.inv(affine), points)
    assert fit > 0.97 and np.linalg.norm(there - points, axis=1).max() < 2.0


def test_the_template_has_the_volumes_of_its_own_tissue_maps(found):
    from nilearn import datasets

    gm, wm = (f(resolution=2).get_fdata().sum() * 8 / 1000 for f in (
        datasets.load_mni152_gm_template, datasets.load_mni152_wm_template))  # fmt: skip
    row = found.iloc[0]
    assert row["brain"] == pytest.approx(gm + wm, rel=0.06)
    assert 10 < row["left_ventricle"] + row["right_ventricle"] < 25  # its lateral ventricles hold 17.5 ml
    assert row["cerebellum"] == pytest.approx(181, rel=0.1)
    assert row["brain_stem"] == pytest.approx(24, rel=0.15)


def test_left_and_right_of_the_symmetric_template_are_equal(found):
    for left, right in SIDES:
        assert found[left][0] == pytest.approx(found[right][0], rel=0.04)


def test_totals_are_the_sums_of_their_regions(found):
    row = found.iloc[0]
    assert row["intracranial"] == pytest.approx(row[list(regions.REGIONS)].sum())
    fluid = row[["left_ventricle", "right_ventricle", "csf"]].sum()
    assert row["brain"] == pytest.approx(row["intracranial"] - fluid)


def test_volumes_follow_the_size_and_not_the_pose(template, found):
    volume, affine = template
    turned = regions.volumes(volume[None], posed(affine, degrees=(15, 5, -10), shift=(20, 10, -30)))
    smaller = regions.volumes(volume[None], posed(affine, scale=(0.9, 0.8, 0.95)))
    np.testing.assert_allclose(turned, found, rtol=0.05)
    np.testing.assert_allclose(smaller, found * 0.9 * 0.8 * 0.95, rtol=0.05)


def test_a_lesion_reduces_the_volume_of_its_side_only(template, found):
    """A lesion as dark as CSF in the left white matter; the affine defines the side, not the order of voxels."""
    volume, affine = template[0].copy(), template[1]
    points = nib.affines.apply_affine(affine, np.stack(np.indices(volume.shape), -1))
    ball = np.linalg.norm(points - (-28, -30, 32), axis=-1) < 12
    volume[ball] = 0.3
    for array, to_mm in ((volume, affine), (volume[::-1], affine @ np.diag([-1.0, 1, 1, 1]) @ _shift(volume))):
        lost = (found - regions.volumes(array[None], to_mm)).iloc[0]
        assert lost["left_wm"] + lost["left_gm"] == pytest.approx(ball.sum() * 27 / 1000, rel=0.25)
        assert abs(lost["right_wm"] + lost["right_gm"]) < 1.5


def _shift(volume):
    """Affine from voxels of a flipped array to voxels of the array."""
    return nib.affines.from_matvec(np.eye(3), [-(volume.shape[0] - 1), 0, 0])


def test_a_mirrored_brain_has_exchanged_sides(template):
    volume, affine = template[0].copy(), template[1]
    points = nib.affines.apply_affine(affine, np.stack(np.indices(volume.shape), -1))
    volume[np.linalg.norm(points - (-28, -30, 32), axis=-1) < 14] = 0.3
    table = regions.volumes(np.stack([volume, volume[::-1]]), np.diag([3.0, 3, 3, 1]))
    for left, right in SIDES[:2]:
        np.testing.assert_allclose(table[left][0], table[right][1], rtol=0.03)
    assert table["right_wm"][0] - table["left_wm"][0] > 5


# --- scans ------------------------------------------------------------------------------------------


def test_regional_volumes_of_simulated_participants_follow_their_anatomy():
    """Participants of the embedded cohort in scanner orientation: oblique, axes P, S, R."""
    scanner = {"seed": 0, "variation": brains.Variation(), "shape": (76, 64, 56), "spacing_mm": (3.0, 3.0, 3.0)}
    volumes, affines, facts = zip(*(brains.simulate_scan(number, **scanner) for number in range(5)), strict=True)
    table, truth = regions.volumes(np.stack(volumes), np.stack(affines)), [f["gm_ml"] + f["wm_ml"] for f in facts]
    assert table.notna().all(axis=None)
    assert np.corrcoef(table["brain"], truth)[0, 1] > 0.97
    np.testing.assert_allclose(table["brain"], truth, rtol=0.12)


REAL_SCANS = REAL / "ixi_t1_2mm"
MUSE = {  # labels of DLMUSE by region; right labels come before their left partners up to 62
    "left_ventricle": [50, 52],
    "right_ventricle": [49, 51],
    "cerebellum": [38, 39, 40, 41, 71, 72, 73],
    "brain_stem": [35],
    "left_wm": [62, 82, 84, 86, 88, 90, 92, 94],
    "right_wm": [61, 81, 83, 85, 87, 89, 91, 93],
    "left_gm": [30, 32, 37, 48, 56, 58, 60, 75, *range(101, 208, 2)],
    "right_gm": [23, 31, 36, 47, 55, 57, 59, 76, *range(100, 207, 2)],
}


@pytest.mark.slow
@pytest.mark.skipif(not REAL_SCANS.is_dir(), reason=f"no real scans in {REAL_SCANS}")
def test_regions_of_real_scans_correlate_with_an_independent_parcellation():
    truth, measured = [], []
    for scan in sorted((REAL_SCANS / "T1").glob("*.nii.gz"))[:24]:
        mask = REAL_SCANS / "dlmuse" / scan.name.replace("-T1.", "-DLMUSE.")
        volume, affine, _ = prepare(scan, spacing_mm=2.0, shape=(80, 96, 80), mask=mask)
        measured.append(regions.volumes(volume[None], affine))
        counts = np.bincount(np.asarray(nib.load(mask).dataobj).ravel(), minlength=208) * 8 / 1000
        truth.append({region: counts[labels].sum() for region, labels in MUSE.items()})
    table, truth = pd.concat(measured, ignore_index=True), pd.DataFrame(truth)
    r = {region: np.corrcoef(table[region], truth[region])[0, 1] for region in MUSE}
    assert min(r.values()) > 0.8, r
    assert min(r[name] for name in r if name.endswith(("ventricle", "gm", "wm"))) > 0.93, r


# --- volumes without a brain --------------------------------------------------------------------------------


def test_volumes_without_a_brain_have_no_regions(template):
    volume, affine = template
    rng = np.random.default_rng(0)
    ball = np.linalg.norm(np.indices(volume.shape).T - np.array(volume.shape) / 2, axis=-1).T < 20
    speck = np.where(np.indices(volume.shape).sum(0) < 9, volume.max(), 0)
    others = {
        "empty": np.zeros_like(volume),
        "constant": np.full_like(volume, 0.5),
        "a mask": 0.5 * (volume > 0.05),
        "noise": rng.random(volume.shape),
        "noise in the shape of a brain": (volume > 0.05) * rng.random(volume.shape),
        "noise in a ball": ball * rng.uniform(0.5, 1, volume.shape),
        "a speck": speck,
    }
    table = regions.volumes(np.stack(list(others.values())), affine)
    assert table.isna().all(axis=None), dict(zip(others, table["brain"], strict=True))
    assert not regions.segment(others["noise"], affine).any()


def test_error_messages(template):
    volume, affine = template
    with pytest.raises(ValueError) as error:
        regions.volumes(volume[None], affine, method="guess")
    assert str(error.value) == "method must be one of ['atlas', 'synthseg']; got 'guess'"
    with pytest.raises(ValueError, match=r"affine must be an invertible \(4, 4\) matrix of voxels to mm; got \[\[0"):
        regions.segment(volume, np.zeros((4, 4)))


# --- SynthSeg ----------------------------------------------------------------------------------------

FAKE = """#!{python}
import csv, sys
from pathlib import Path
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
names = {names!r}
with open(args["--vol"], "w") as file:
    table = csv.writer(file)
    table.writerow(["subject", *names])
    for scan in sorted(Path(args["--i"]).iterdir()):
        number = int(scan.name[:6])
        if number != 1:
            table.writerow([scan.name.replace(".nii.gz", ""), *(1000 * (number + k + 1) for k in range(len(names)))])
sys.exit(1)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a program on an otherwise empty PATH."""

    def install(text):
        tool = tmp_path / synthseg.TOOL
        tool.write_text(text)
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


NAMES = sorted({name for names in synthseg.STRUCTURES.values() for name in names} - {"csf"}) + ["CSF"]


def test_synthseg_is_called_once_and_its_structures_are_summed_to_regions(install):
    install(FAKE.format(python=sys.executable, names=NAMES))
    table = regions.volumes(np.zeros((3, 4, 4, 4)), np.eye(4), method="synthseg")
    ml = {name.lower(): k + 1 for k, name in enumerate(NAMES)}
    row = table.loc[2]
    assert row["left_gm"] == pytest.approx(sum(ml[n] + 2 for n in synthseg.STRUCTURES["left_gm"]))
    assert row["right_ventricle"] == ml["right lateral ventricle"] + ml["right inferior lateral ventricle"] + 4
    assert row["csf"] == ml["csf"] + ml["3rd ventricle"] + ml["4th ventricle"] + 6
    assert row["intracranial"] == ml["total intracranial"] + 2
    assert row["brain"] == pytest.approx(row[synthseg.TISSUE].sum())
    assert table.loc[1].isna().all() and table.loc[[0, 2]].notna().all(
        axis=None
    )  # the volume that it could not segment
    assert list(table.columns) == [*regions.REGIONS, *regions.TOTALS]


def test_a_missing_failing_or_old_synthseg_is_reported(install, monkeypatch, tmp_path):
    volumes = np.zeros((1, 4, 4, 4))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        regions.volumes(volumes, np.eye(4), method="synthseg")
    assert str(error.value) == (
        "mri_synthseg must be on the PATH for evaluation.segmentation synthseg; it was not found: "
        "set up FreeSurfer (7.3 or newer), or choose atlas"
    )
    install(f"#!{sys.executable}\nimport sys\nsys.exit('no licence file')\n")
    with pytest.raises(RuntimeError, match="wrote no table of volumes and ended with status 1: no licence file"):
        regions.volumes(volumes, np.eye(4), method="synthseg")
    install(FAKE.format(python=sys.executable, names=NAMES[1:]))
    with pytest.raises(ValueError, match=r"must have the columns of SynthSeg 2; \['3rd ventricle'\] are not among"):
        regions.volumes(volumes, np.eye(4), method="synthseg")
