"""The simulated longitudinal cohort: growth, masks, contrasts, anatomies."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import spearmanr

from neuromf.simulation.anatomies import Grid, load_anatomies, phantom_anatomy
from neuromf.simulation.growth_curves import CURVES, Growth, gompertz, treated
from neuromf.simulation.tumour_cohort import simulate_cohort
from neuromf.simulation.tumours import (
    CONTRASTS,
    CORE_ABOVE_MM3,
    ENHANCING,
    NECROSIS,
    OEDEMA,
    contrast_image,
    displace,
    draw_patient,
    simulate_patient,
    tumour_labels,
)

IXI = Path(os.environ.get("NEUROMF_REAL_DATA", "../shared/data")) / "ixi_t1_2mm"
GRID = Grid(24, 8.0)


@pytest.fixture(scope="module")
def anatomy():
    return phantom_anatomy(0, GRID, 0)


def mass(labels):
    return np.isin(labels, (NECROSIS, ENHANCING))


# --- growth ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gompertz", "logistic"])
def test_G10_closed_forms_solve_their_differential_equations(name):
    growth = Growth(initial_mm3=3000.0, capacity_mm3=50000.0, rate=0.02)
    k, start = np.log1p(growth.capacity_mm3), growth.initial_mm3 + 1
    capacity = growth.capacity_mm3 + 1
    r = growth.rate * np.log(capacity / start) / (1 - start / capacity)
    slopes = {
        "gompertz": lambda t, v: growth.rate * v * (k - np.log(v)),
        "logistic": lambda t, v: r * v * (1 - v / capacity),
    }
    t = np.linspace(0, 120, 13)
    solved = solve_ivp(slopes[name], (0, 120), [start], t_eval=t, rtol=1e-9, atol=1e-6).y[0] - 1
    np.testing.assert_allclose(CURVES[name](t, growth), solved, rtol=1e-5)
    assert CURVES[name](0, growth) == pytest.approx(3000.0)


def test_G10_initial_growth_rates_of_gompertz_and_logistic_agree():
    growth = Growth(initial_mm3=3000.0, capacity_mm3=50000.0, rate=0.02)
    rates = [np.log(curve(0.01, growth) / 3000.0) for curve in (CURVES["gompertz"], CURVES["logistic"])]
    assert rates[0] == pytest.approx(rates[1], rel=1e-3)


def test_G10_treatment_interrupts_growth():
    growth = Growth(3000.0, 50000.0, 0.02, treatment_start=6.0, treatment_months=3.0, treatment_decay=0.2)
    t = np.array([0.0, 6.0, 9.0, 60.0])
    before, start, end, later = treated(t, growth)
    assert (before, start) == (pytest.approx(3000.0), pytest.approx(float(gompertz(6.0, growth))))
    assert np.log((end + 1) / (start + 1)) == pytest.approx(-0.6) and end < later < gompertz(60.0, growth)


def test_G10_patients_follow_the_planted_distributions():
    patients = [draw_patient(k, 0) for k in range(1500)]
    start, capacity = (np.log([getattr(p.growth, n) for p in patients]) for n in ("initial_mm3", "capacity_mm3"))
    assert np.exp(np.median(start)) == pytest.approx(4000, rel=0.1) and start.std() == pytest.approx(0.9, abs=0.05)
    assert (capacity > start).all() and np.exp(np.median(capacity)) == pytest.approx(40000, rel=0.1)
    rate = np.log([p.growth.rate for p in patients])
    residual = rate - np.log(0.15 / 12 / (capacity - start))  # 12 months, planted effects and noise remain
    age, male = np.array([p.age for p in patients]), np.array([p.sex == "M" for p in patients])
    design = np.stack([np.ones(len(age)), (age - 60) / 10, male - 0.5], 1)
    fitted, *_ = np.linalg.lstsq(design, residual, rcond=None)
    np.testing.assert_allclose(fitted, [0.0, -0.10, 0.20], atol=0.09)
    visits = np.bincount([len(p.t_months) for p in patients], minlength=7)[2:] / 1500
    np.testing.assert_allclose(visits, [0.35, 0.25, 0.20, 0.12, 0.08], atol=0.04)
    gaps = np.concatenate([np.diff(p.t_months) for p in patients])
    assert gaps.min() > 0 and gaps.mean() == pytest.approx(12.0, rel=0.05)
    assert abs(spearmanr([len(p.t_months) for p in patients], rate)[0]) < 0.08  # missing completely at random


# --- masks and images --------------------------------------------------------------------------------


def test_G10_masks_have_the_volume_of_the_growth_curve_and_are_nested():
    grid = Grid(48, 4.0)
    fine, above = phantom_anatomy(0, grid, 0), 0
    large = next(k for k in range(100) if draw_patient(k, 0).growth.initial_mm3 > 500 * 64.0)
    for number in (0, 1, large):
        patient = draw_patient(number, 0)
        visits = simulate_patient(number, fine, grid, seed=0)
        before = np.zeros((48,) * 3, bool)
        for (_, labels, truth), t in zip(visits, patient.t_months, strict=True):
            voxels, expected = mass(labels).sum(), float(gompertz(t, patient.growth)) / 64.0
            assert abs(voxels - expected) <= 0.5 and truth["V_mask_mm3"] == voxels * 64.0
            assert truth["V_true_mm3"] == pytest.approx(expected * 64.0)
            if voxels > 500:
                above += 1
                assert abs(voxels / expected - 1) < 0.02
            assert not (before & ~mass(labels)).any()
            before = mass(labels)
    assert above > 0


def test_G10_labels_are_core_mass_and_rim_in_the_brain(anatomy):
    level = np.where(anatomy.brain, np.linalg.norm(np.indices((24,) * 3) - 12.0, axis=0), np.inf)
    labels = tumour_labels(level, GRID, 40 * 8.0**3, oedema_mm=8.0)
    assert mass(labels).sum() == 40 and (labels == NECROSIS).sum() == 10
    assert not (labels[~anatomy.brain]).any() and (labels == OEDEMA).sum() > 20
    assert (tumour_labels(level, GRID, CORE_ABOVE_MM3, 0.0) != NECROSIS).all()
    assert not tumour_labels(level, GRID, 0.0, 8.0).any()


def test_G10_contrasts_differ_as_specified(anatomy):
    level = np.where(anatomy.brain, np.linalg.norm(np.indices((24,) * 3) - 12.0, axis=0), np.inf)
    labels = tumour_labels(level, GRID, 30 * 8.0**3, oedema_mm=8.0)
    solid = labels == ENHANCING
    rim = labels == OEDEMA
    for name, (mass_factor, rim_gain) in {
        "t1c": (2.2, 0),
        "t1n": (0.85, 0),
        "t2f": (1.6, 0.6),
        "t2w": (1.5, 0.5),
    }.items():
        healthy = contrast_image(anatomy, np.zeros_like(labels), CONTRASTS[name])
        image = contrast_image(anatomy, labels, CONTRASTS[name])
        pure = solid & (anatomy.fractions[0] == 0)
        np.testing.assert_allclose(image[pure], mass_factor * healthy[pure], rtol=1e-5)
        np.testing.assert_allclose(image[rim] - healthy[rim], rim_gain, atol=1e-5)
    white = anatomy.fractions[2] > 0.99
    fluid = anatomy.fractions[0] > 0.99
    plain = {name: contrast_image(anatomy, np.zeros_like(labels), one) for name, one in CONTRASTS.items()}
    assert all(plain[name][fluid].mean() < 0.5 * plain[name][white].mean() for name in ("t1c", "t1n", "t2f"))
    assert plain["t2w"][fluid].mean() > 2 * plain["t2w"][white].mean()


def test_G10_mass_effect_moves_tissue_and_preserves_the_brain(anatomy):
    level = np.where(anatomy.brain, np.linalg.norm(np.indices((24,) * 3) - 12.0, axis=0), np.inf)
    labels = tumour_labels(level, GRID, 60 * 8.0**3, oedema_mm=0.0)
    moved = displace(anatomy, labels, GRID, 0.4)
    assert (moved.brain == anatomy.brain).all() and displace(anatomy, labels, GRID, 0.0) is anatomy
    change = np.abs(moved.fractions - anatomy.fractions).sum(0)
    near = level < 5
    assert change[near].mean() > 5 * change[anatomy.brain & (level > 9)].mean() > 0


def test_G10_equal_seeds_give_equal_files_and_patients_do_not_depend_on_the_cohort(tiny_cohort, tmp_path):
    settings = {"anatomy": "phantom", "n_anatomies": 4, "shape": 16, "spacing_mm": 12.0}
    simulate_cohort(out=tmp_path / "again", n_patients=8, seed=0, **settings)
    files = sorted(path.relative_to(tiny_cohort) for path in tiny_cohort.rglob("*") if path.is_file())
    assert len(files) > 60
    for file in files:
        assert (tiny_cohort / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    other = simulate_cohort(out=tmp_path / "other", n_patients=8, seed=1, **settings)
    assert (other["V_true_mm3"][:5] != pd.read_csv(tiny_cohort / "truth.tsv", sep="\t")["V_true_mm3"][:5]).all()


def test_G10_files_are_those_of_the_truth(tiny_cohort):
    truth = pd.read_csv(tiny_cohort / "truth.tsv", sep="\t")
    assert {path.name for path in tiny_cohort.iterdir() if path.is_dir()} == set(truth["scan_id"])
    for row in truth[:4].itertuples():
        image = nib.load(tiny_cohort / row.scan_id / f"{row.scan_id}-seg.nii.gz")
        inside = mass(np.asarray(image.dataobj))
        assert inside.sum() * 12.0**3 == row.V_mask_mm3 and nib.aff2axcodes(image.affine) == ("R", "A", "S")
        if inside.any():
            centroid = nib.affines.apply_affine(image.affine, np.argwhere(inside).mean(0))
            np.testing.assert_allclose(centroid, [row.centroid_x_mm, row.centroid_y_mm, row.centroid_z_mm], atol=1e-3)
    noise = np.log1p(truth["V_mm3"]) - np.log1p(truth["V_true_mm3"])
    assert 0.03 < noise.std() < 0.1 and (truth["a_per_month"] > 0).all()
    columns = pd.read_csv(tiny_cohort / "trajectories.tsv", sep="\t").columns
    assert "V_true_mm3" not in columns and {"V_mm3", "t_months", "age", "sex", "anatomy"} <= set(columns)


# --- anatomies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["embedded", "phantom"])
def test_G10_anatomies_are_brains_with_three_tissues(kind):
    one, other = load_anatomies(kind, 2, GRID, seed=0)
    for anatomy in (one, other):
        ml = anatomy.fractions.sum((1, 2, 3)) * 8.0**3 / 1000
        assert 900 < ml.sum() < 2000 and (ml > 50).all(), ml
        assert np.abs(np.argwhere(anatomy.brain).mean(0) - 11.5).max() < 2.5
    assert (one.brain != other.brain).any() and one.name != other.name


@pytest.mark.skipif(not IXI.is_dir(), reason=f"{IXI} is absent; set NEUROMF_REAL_DATA")
def test_G10_real_T1_scans_serve_as_anatomies():
    one, other = load_anatomies("ixi", 2, GRID, seed=0, ixi_root=str(IXI))
    assert one.name.startswith("IXI") and one.name != other.name
    assert 700 < one.brain.sum() * 8.0**3 / 1000 < 2000
    t1 = contrast_image(one, np.zeros((24,) * 3, np.uint8), CONTRASTS["t1n"])
    white, fluid = one.fractions[2] > 0.9, one.fractions[0] > 0.5
    assert t1[fluid].mean() < 0.6 * t1[white].mean()


def test_G10_an_unknown_anatomy_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="anatomy must be embedded, ixi or phantom"):
        load_anatomies("brain", 1, GRID, seed=0)
    with pytest.raises(ValueError, match="set growth.simulation.ixi_root"):
        load_anatomies("ixi", 1, GRID, seed=0, ixi_root=str(tmp_path))
