"""Simulated dysplasia: published locations, separable imaging signs, true masks."""

import dataclasses
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from neuromf.data.participants import read_table
from neuromf.simulation import brains, cortex, dysplasia
from neuromf.simulation.brains import Variation
from neuromf.simulation.dysplasia import draw_lesion, lesion_effect, simulate_scan

CALM = Variation(bias_field=0, noise=0, contrast=0)
SCANNER = {"seed": 3, "variation": CALM, "shape": (96, 96, 60), "spacing_mm": (2.5, 2.5, 3.0)}
OFF = {"thickening_mm": 0.0, "blurring_mm": 0.0, "hyperintensity": 0.0, "transmantle": 0.0}
AVERAGE = {"csf_bias": 0.0, "grey_bias": 0.0, "scale_x": 0.9, "scale_y": 0.9, "scale_z": 0.9}


@pytest.fixture(scope="module")
def healthy():
    return simulate_scan(2, **SCANNER, **OFF)


def draw_lesions(n=400, **settings):
    return [draw_lesion(number, 7, **{"transmantle": 0.5, **settings}) for number in range(n)]


# --- location and volume -----------------------------------------------------------------------------


def test_lesions_have_published_locations_and_volumes():
    lesions = draw_lesions()
    lobes = Counter(lesion.lobe for lesion in lesions)
    for lobe, n in dysplasia.LOBES.items():
        assert lobes[lobe] / len(lesions) == pytest.approx(n / 76, abs=0.06)
    assert sum(lesion.side == "L" for lesion in lesions) / len(lesions) == pytest.approx(46 / 85, abs=0.07)
    ml = np.array([lesion.target_ml for lesion in lesions])
    assert ml.min() >= 1 and ml.max() <= 15 and np.median(ml) == pytest.approx(4.0, rel=0.15)
    assert np.log(ml).std() == pytest.approx(0.6, abs=0.1)  # 0.7 before truncation
    assert sum(lesion.transmantle for lesion in lesions) / len(lesions) == pytest.approx(0.5, abs=0.07)
    assert not any(lesion.transmantle for lesion in draw_lesions(50, transmantle=0.0))
    assert all(lesion.transmantle for lesion in draw_lesions(50, transmantle=1.0))


def test_a_lesion_depends_on_seed_and_number_alone():
    assert draw_lesion(5, 7, transmantle=0.5) == draw_lesions(6)[5] != draw_lesion(5, 8, transmantle=0.5)
    with_cone, without = (draw_lesion(5, 7, transmantle=fraction) for fraction in (1.0, 0.0))
    assert with_cone._replace(transmantle=False) == without


def test_seeds_are_cortex_at_the_bottom_of_a_sulcus_in_their_hemisphere():
    (_, grey, white), depth = cortex.average()
    x0 = brains.load_template().affine[0, 3]
    near_white = ndimage.uniform_filter(white, 11)
    for lesion in draw_lesions(60):
        assert grey[lesion.seed] > 0.6 and 8 < depth[lesion.seed] < 25
        assert near_white[lesion.seed] > 0.45 > near_white[grey > 0.6].mean()
        assert (lesion.seed[0] + x0 < 0) == (lesion.side == "L")


def test_lobes_do_not_overlap_and_contain_known_coordinates():
    lobes = cortex.lobes()
    assert np.sum([lobe.astype(int) for lobe in lobes.values()], axis=0).max() == 1
    corner = brains.load_template().affine[:3, 3]
    known = {"frontal": (40, 40, 30), "parietal": (-40, -50, 50), "temporal": (55, -20, -20), "occipital": (20, -90, 5)}
    for lobe, mm in known.items():
        assert lobes[lobe][tuple(int(v) for v in np.array(mm) - corner)], lobe
    for mm in ((0, -20, 10), (20, -60, -40), (-12, -15, 8)):  # midline, cerebellum, thalamus
        assert not any(lobe[tuple(int(v) for v in np.array(mm) - corner)] for lobe in lobes.values())


# --- effect on the template --------------------------------------------------------------------------


@pytest.mark.parametrize("target_ml", [2.0, 8.0])
def test_a_lesion_has_its_target_volume(target_ml):
    lesion = draw_lesion(4, 7, transmantle=0.0)._replace(target_ml=target_ml)
    field = lesion_effect(lesion, AVERAGE, thickening_mm=2.0, blurring_mm=3.0).fields[0, 2]
    assert float((field > 0.5).sum()) * 0.9**3 / 1000 == pytest.approx(target_ml, rel=0.12)


def test_a_lesion_follows_the_cortex_and_is_not_spherical():
    lesion = draw_lesion(4, 7, transmantle=0.0)._replace(target_ml=6.0)
    effect = lesion_effect(lesion, AVERAGE, thickening_mm=0.0, blurring_mm=0.0)
    field = effect.fields[0, 2].numpy() > 0.5
    box = tuple(slice(int(o), int(o) + n) for o, n in zip(effect.origin, field.shape, strict=True))
    grey = cortex.average()[0][1][box]
    from_seed = np.linalg.norm(np.argwhere(field) + effect.origin.numpy() - np.array(lesion.seed), axis=1)
    ball = (3 * field.sum() / (4 * np.pi)) ** (1 / 3)
    assert np.percentile(from_seed, 95) > 1.15 * ball and grey[field].mean() > 0.6
    assert ndimage.label(field)[1] == 1


def test_each_sign_has_its_effect_and_none_if_off():
    lesion = draw_lesion(4, 7, transmantle=0.0)
    none = lesion_effect(lesion, AVERAGE, thickening_mm=0.0, blurring_mm=0.0).fields[0]
    assert torch.equal(none[0], torch.zeros_like(none[0]))
    thick = lesion_effect(lesion, AVERAGE, thickening_mm=2.0, blurring_mm=0.0).fields[0]
    thicker = lesion_effect(lesion, AVERAGE, thickening_mm=4.0, blurring_mm=0.0).fields[0]
    assert thick[0].min() >= 0 and 0.2e3 < thick[0].sum() < thicker[0].sum()
    blurred = lesion_effect(lesion, AVERAGE, thickening_mm=0.0, blurring_mm=3.0).fields[0]
    assert blurred[0].min() < -0.05 and blurred[0].max() > 0.05
    assert abs(float(blurred[0].sum())) < 0.2 * float(blurred[0].abs().sum())
    for fields in (thick, blurred):
        assert torch.equal(fields[2], none[2])  # the mask does not depend on the signs


def test_the_transmantle_cone_reaches_the_ventricle_and_narrows():
    large = (one for one in draw_lesions(60, transmantle=1.0) if one.lobe == "frontal" and one.target_ml > 5)
    lesion = next(large)
    plain, effect = (
        lesion_effect(one, AVERAGE, thickening_mm=0, blurring_mm=0)
        for one in (lesion._replace(transmantle=False), lesion)
    )
    field = np.zeros_like(cortex.average()[1], bool)
    for part, value in ((effect, True), (plain, False)):
        where = np.argwhere(part.fields[0, 2].numpy() > 0.5) + part.origin.numpy().astype(int)
        field[tuple(where.T)] = value
    ventricle = cortex.ventricles()
    end = ventricle[((ventricle - np.array(lesion.seed)) ** 2).sum(1).argmin()]
    line, places = end - np.array(lesion.seed), np.argwhere(field)
    along = (places - np.array(lesion.seed)) @ line / (line @ line)
    assert along.max() > 0.8 and len(places) > 50
    counts = np.histogram(along, [0.5, 0.7, 0.9])[0]
    assert counts[0] > counts[1] > 0


# --- scans -------------------------------------------------------------------------------------------


def test_flair_has_dark_csf_and_grey_matter_brighter_than_white(healthy):
    volume, _, affine, traits = healthy
    points = brains.template_points(affine, volume.shape, traits)
    displacement = brains.draw_deformation(2, 3, traits, CALM)[0]
    fractions = brains.sample_anatomy(points, displacement, traits)[1].numpy()
    csf, grey, white = (volume[fraction > 0.9].mean() / brains.WHITE for fraction in fractions)
    assert csf < 0.3 * white and 1.05 * white < grey < 1.35 * white
    assert not volume[fractions.sum(0) == 0].any()


def test_a_lesion_raises_the_signal_in_its_mask_and_nowhere_else(healthy):
    volume, mask, _, traits = simulate_scan(2, **SCANNER, transmantle=0.0)
    before = healthy[0]
    np.testing.assert_array_equal(mask, healthy[1])  # same lesion with all signs off
    assert (volume[mask > 0] / before[mask > 0]).mean() > 1.15
    far = ~ndimage.binary_dilation(mask, iterations=5)
    np.testing.assert_allclose(volume[far], before[far], atol=1e-4)  # tolerance for the soft edge
    assert set(np.unique(mask)) == {0, 1} and mask.dtype == np.uint8
    voxel_ml = 2.5 * 2.5 * 3.0 / 1000
    assert traits["lesion_ml"] == pytest.approx(mask.sum() * voxel_ml, abs=1e-3) and 0.5 < traits["lesion_ml"] < 20


def test_scans_are_reproducible_and_masks_do_not_depend_on_bias_field_and_noise(healthy):
    again = simulate_scan(2, **SCANNER, **OFF)
    np.testing.assert_array_equal(again[0], healthy[0])
    rough = simulate_scan(2, **{**SCANNER, "variation": dataclasses.replace(CALM, bias_field=0.1, noise=0.02)}, **OFF)
    np.testing.assert_array_equal(rough[1], healthy[1])
    assert np.abs(rough[0] - healthy[0]).max() > 0.02


def test_a_cohort_is_written_as_bids_with_traits(tmp_path, healthy):
    variation = {"bias_field": 0, "noise": 0, "contrast": 0}
    dysplasia.simulate_cohort(out=tmp_path, n_participants=3, **{**SCANNER, "variation": variation}, **OFF)
    image = nib.load(tmp_path / "sub-0002" / "anat" / "sub-0002_FLAIR.nii.gz")
    mask = nib.load(tmp_path / "sub-0002" / "anat" / "sub-0002_FLAIR_roi.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), healthy[0], atol=2e-5)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), healthy[1])
    np.testing.assert_allclose(mask.affine, image.affine)
    rows = read_table(tmp_path / "participants.tsv").to_dict("records")
    assert [row["participant_id"] for row in rows] == ["sub-0000", "sub-0001", "sub-0002"]
    assert float(rows[2]["lesion_ml"]) == healthy[3]["lesion_ml"]
