"""Simulated dysplasia: places that are published, signs that can be told apart, masks that are true."""

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
from neuromf.simulation.dysplasia import change, draw_lesion, scan

CALM = Variation(bias_field=0, noise=0, contrast=0)
SCANNER = {"seed": 3, "variation": CALM, "shape": (96, 96, 60), "spacing_mm": (2.5, 2.5, 3.0)}
OFF = {"thickening_mm": 0.0, "blurring_mm": 0.0, "hyperintensity": 0.0, "transmantle": 0.0}
AVERAGE = {"csf_bias": 0.0, "grey_bias": 0.0, "scale_x": 0.9, "scale_y": 0.9, "scale_z": 0.9}


@pytest.fixture(scope="module")
def healthy():
    return scan(2, **SCANNER, **OFF)


def drawn(n=400, **settings):
    return [draw_lesion(number, 7, **{"transmantle": 0.5, **settings}) for number in range(n)]


# --- where -------------------------------------------------------------------------------------------


def test_lesions_lie_where_and_are_as_large_as_published():
    found = drawn()
    lobes = Counter(lesion.lobe for lesion in found)
    for lobe, people in dysplasia.LOBES.items():
        assert lobes[lobe] / len(found) == pytest.approx(people / 76, abs=0.06)
    assert sum(lesion.side == "L" for lesion in found) / len(found) == pytest.approx(46 / 85, abs=0.07)
    ml = np.array([lesion.target_ml for lesion in found])
    assert ml.min() >= 1 and ml.max() <= 15 and np.median(ml) == pytest.approx(4.0, rel=0.15)
    assert np.log(ml).std() == pytest.approx(0.6, abs=0.1)  # of 0.7 before what is too small or large is drawn again
    assert sum(lesion.transmantle for lesion in found) / len(found) == pytest.approx(0.5, abs=0.07)
    assert not any(lesion.transmantle for lesion in drawn(50, transmantle=0.0))
    assert all(lesion.transmantle for lesion in drawn(50, transmantle=1.0))


def test_a_person_has_the_same_lesion_in_any_cohort_and_another_than_the_next():
    assert draw_lesion(5, 7, transmantle=0.5) == drawn(6)[5] != draw_lesion(5, 8, transmantle=0.5)
    with_funnel, without = (draw_lesion(5, 7, transmantle=share) for share in (1.0, 0.0))
    assert with_funnel._replace(transmantle=False) == without


def test_seeds_are_cortex_at_the_bottom_of_a_sulcus_on_their_side():
    (_, grey, white), depth = cortex.average()
    x0 = brains.load_template().affine[0, 3]
    near_white = ndimage.uniform_filter(white, 11)
    for lesion in drawn(60):
        assert grey[lesion.seed] > 0.6 and 8 < depth[lesion.seed] < 25
        assert near_white[lesion.seed] > 0.45 > near_white[grey > 0.6].mean()
        assert (lesion.seed[0] + x0 < 0) == (lesion.side == "L")


def test_lobes_do_not_overlap_and_hold_what_everyone_knows():
    found = cortex.lobes()
    assert np.sum([lobe.astype(int) for lobe in found.values()], axis=0).max() == 1
    corner = brains.load_template().affine[:3, 3]
    known = {"frontal": (40, 40, 30), "parietal": (-40, -50, 50), "temporal": (55, -20, -20), "occipital": (20, -90, 5)}
    for lobe, mm in known.items():
        assert found[lobe][tuple(int(v) for v in np.array(mm) - corner)], lobe
    for mm in ((0, -20, 10), (20, -60, -40), (-12, -15, 8)):  # midline, cerebellum, thalamus
        assert not any(lobe[tuple(int(v) for v in np.array(mm) - corner)] for lobe in found.values())


# --- what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_ml", [2.0, 8.0])
def test_a_lesion_has_the_volume_it_was_asked_for(target_ml):
    lesion = draw_lesion(4, 7, transmantle=0.0)._replace(target_ml=target_ml)
    field = change(lesion, AVERAGE, thickening_mm=2.0, blurring_mm=3.0).fields[0, 2]
    assert float((field > 0.5).sum()) * 0.9**3 / 1000 == pytest.approx(target_ml, rel=0.12)


def test_a_lesion_follows_the_cortex_and_is_no_ball():
    lesion = draw_lesion(4, 7, transmantle=0.0)._replace(target_ml=6.0)
    made = change(lesion, AVERAGE, thickening_mm=0.0, blurring_mm=0.0)
    field = made.fields[0, 2].numpy() > 0.5
    box = tuple(slice(int(o), int(o) + n) for o, n in zip(made.origin, field.shape, strict=True))
    grey = cortex.average()[0][1][box]
    away = np.linalg.norm(np.argwhere(field) + made.origin.numpy() - np.array(lesion.seed), axis=1)
    ball = (3 * field.sum() / (4 * np.pi)) ** (1 / 3)
    assert np.percentile(away, 95) > 1.15 * ball and grey[field].mean() > 0.6
    assert ndimage.label(field)[1] == 1


def test_each_sign_changes_what_it_is_named_after_and_nothing_when_off():
    lesion = draw_lesion(4, 7, transmantle=0.0)
    none = change(lesion, AVERAGE, thickening_mm=0.0, blurring_mm=0.0).fields[0]
    assert torch.equal(none[0], torch.zeros_like(none[0]))
    thick = change(lesion, AVERAGE, thickening_mm=2.0, blurring_mm=0.0).fields[0]
    thicker = change(lesion, AVERAGE, thickening_mm=4.0, blurring_mm=0.0).fields[0]
    assert thick[0].min() >= 0 and 0.2e3 < thick[0].sum() < thicker[0].sum()
    blurred = change(lesion, AVERAGE, thickening_mm=0.0, blurring_mm=3.0).fields[0]
    assert blurred[0].min() < -0.05 and blurred[0].max() > 0.05
    assert abs(float(blurred[0].sum())) < 0.2 * float(blurred[0].abs().sum())
    for made in (thick, blurred):
        assert torch.equal(made[2], none[2])  # where the lesion is does not depend on what it looks like


def test_a_funnel_reaches_the_ventricle_and_narrows_on_its_way():
    lesion = next(one for one in drawn(60, transmantle=1.0) if one.lobe == "frontal" and one.target_ml > 5)
    plain, made = (
        change(one, AVERAGE, thickening_mm=0, blurring_mm=0) for one in (lesion._replace(transmantle=False), lesion)
    )
    field = np.zeros_like(cortex.average()[1], bool)
    for each, value in ((made, True), (plain, False)):
        where = np.argwhere(each.fields[0, 2].numpy() > 0.5) + each.origin.numpy().astype(int)
        field[tuple(where.T)] = value
    ventricle = cortex.ventricles()
    end = ventricle[((ventricle - np.array(lesion.seed)) ** 2).sum(1).argmin()]
    line, places = end - np.array(lesion.seed), np.argwhere(field)
    along = (places - np.array(lesion.seed)) @ line / (line @ line)
    assert along.max() > 0.8 and len(places) > 50
    counts = np.histogram(along, [0.5, 0.7, 0.9])[0]
    assert counts[0] > counts[1] > 0


# --- a person ----------------------------------------------------------------------------------------


def test_flair_shows_dark_fluid_and_brighter_grey_than_white(healthy):
    volume, _, affine, facts = healthy
    points = brains.head_points(affine, volume.shape, facts)
    displacement = brains.warp(2, 3, facts, CALM)[0]
    shares = brains.anatomy(points, displacement, facts)[1].numpy()
    fluid, grey, white = (volume[share > 0.9].mean() / brains.WHITE for share in shares)
    assert fluid < 0.3 * white and 1.05 * white < grey < 1.35 * white
    assert not volume[shares.sum(0) == 0].any()


def test_a_lesion_is_brighter_than_the_same_place_without_and_elsewhere_nothing_changes(healthy):
    volume, mask, _, facts = scan(2, **SCANNER, transmantle=0.0)
    before = healthy[0]
    np.testing.assert_array_equal(mask, healthy[1])  # the same lesion, switched off
    assert (volume[mask > 0] / before[mask > 0]).mean() > 1.15
    far = ~ndimage.binary_dilation(mask, iterations=5)
    np.testing.assert_allclose(volume[far], before[far], atol=1e-4)  # the lesion ends softly
    assert set(np.unique(mask)) == {0, 1} and mask.dtype == np.uint8
    voxel_ml = 2.5 * 2.5 * 3.0 / 1000
    assert facts["lesion_ml"] == pytest.approx(mask.sum() * voxel_ml, abs=1e-3) and 0.5 < facts["lesion_ml"] < 20


def test_a_person_is_the_same_again_and_the_bias_field_does_not_move_the_mask(healthy):
    again = scan(2, **SCANNER, **OFF)
    np.testing.assert_array_equal(again[0], healthy[0])
    rough = scan(2, **{**SCANNER, "variation": dataclasses.replace(CALM, bias_field=0.1, noise=0.02)}, **OFF)
    np.testing.assert_array_equal(rough[1], healthy[1])
    assert np.abs(rough[0] - healthy[0]).max() > 0.02


def test_people_are_written_as_bids_with_what_made_them(tmp_path, healthy):
    dysplasia.write_people(
        [2], tmp_path, **{**SCANNER, "variation": {"bias_field": 0, "noise": 0, "contrast": 0}}, **OFF
    )
    image = nib.load(tmp_path / "sub-0002" / "anat" / "sub-0002_FLAIR.nii.gz")
    mask = nib.load(tmp_path / "sub-0002" / "anat" / "sub-0002_FLAIR_roi.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), healthy[0], atol=2e-5)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), healthy[1])
    np.testing.assert_allclose(mask.affine, image.affine)
    (row,) = read_table(tmp_path / "participants.tsv").to_dict("records")
    assert row["participant_id"] == "sub-0002" and float(row["lesion_ml"]) == healthy[3]["lesion_ml"]
