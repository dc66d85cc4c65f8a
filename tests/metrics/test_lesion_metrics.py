"""Lesion metrics: cases with known volume, place, overlap, brightness and thickness."""

import numpy as np
import pandas as pd
import pytest

from neuromf.metrics import lesions

SHAPE, MM = (20, 24, 20), 2.0


def ball(centre, radius=3.0):
    return np.linalg.norm(np.indices(SHAPE).T - np.array(centre), axis=-1).T <= radius


def brain(seed=0):
    inside = ball((10, 12, 10), 9.0)
    return np.where(inside, 0.5 + 0.02 * np.random.default_rng(seed).standard_normal(SHAPE), 0.0)


@pytest.fixture
def pairs():
    """Brains with a bright lesion inside the mask, each at another place."""
    masks = np.stack([ball(c) for c in ((7, 12, 10), (13, 12, 10), (10, 8, 10), (10, 16, 12))])
    images = np.stack([np.where(mask, brain(k) + 0.3, brain(k)) for k, mask in enumerate(masks)])
    return images, masks


def test_volume_place_and_contrast_are_those_of_the_simulated_lesion(pairs):
    images, masks = pairs
    row = lesions.describe(images, masks, MM).iloc[0]
    assert row["ml"] == pytest.approx(masks[0].sum() * 8 / 1000) and row["pieces"] == 1
    assert row["x_mm"] == pytest.approx(-6, abs=0.3) and row["y_mm"] == pytest.approx(0, abs=0.3)
    assert row["inside"] - row["ring"] == pytest.approx(0.3, abs=0.02) and row["contrast"] > 2


def test_the_ring_lies_between_its_distances_and_outside_the_lesion():
    mask = ball((10, 12, 10), 1.0)
    ring = lesions.ring(mask, MM)
    distance = MM * np.linalg.norm(np.argwhere(ring) - (10, 12, 10), axis=1)
    assert distance.min() > 2.5 and distance.max() <= 10 + MM and not (ring & mask).any()


def test_a_mask_among_the_real_ones_has_dice_1_and_distance_0():
    masks = np.stack([ball((7, 12, 10)), ball((13, 12, 10))])
    table = lesions.nearest(masks, masks[::-1], MM)
    assert table["nearest"].tolist() == [1, 0] and table["dice"].tolist() == [1, 1]
    assert table["hausdorff_mm"].tolist() == [0, 0]


def test_dice_and_hausdorff_distance_of_a_shifted_mask_are_known():
    mask, shifted = np.zeros((2, *SHAPE), bool)
    mask[5:9, 5:9, 5:9], shifted[7:11, 5:9, 5:9] = True, True
    assert lesions.dice(mask, shifted) == 0.5
    assert lesions.dice(mask, np.stack([mask, shifted, ~mask])).tolist() == [1, 0.5, 0]
    assert lesions.hausdorff(mask, shifted, MM) == pytest.approx(4.0)
    assert np.isnan(lesions.hausdorff(mask, shifted & False, MM))
    assert lesions.dice(mask & False, shifted & False) == 1
    with pytest.raises(ValueError, match=r"one shape; got \(8,\) and \(3,\)"):
        lesions.dice(np.zeros(8, bool), np.zeros(3, bool))


def test_without_overlap_the_real_mask_with_the_nearest_centroid_is_taken():
    masks = np.stack([ball((4, 12, 10), 1), ball((16, 12, 10), 1)])
    assert lesions.nearest(ball((14, 12, 4), 1)[None], masks, MM)["nearest"].tolist() == [1]


def test_brightness_and_auc_show_whether_image_and_mask_agree(pairs):
    images, masks = pairs
    assert lesions.lesion_brightness(images, masks) == pytest.approx([0.3] * 4, abs=0.03)
    assert (lesions.lesion_auc(images, masks) > 0.98).all()
    assert (lesions.lesion_auc(images + ball((10, 12, 4), 3.0), masks) > 0.98).all()  # bright in every brain
    permuted = masks[[1, 2, 3, 0]]
    assert (np.abs(lesions.lesion_brightness(images, permuted) + 0.1) < 0.03).all()  # one other brain is brighter there
    assert (lesions.lesion_auc(images, permuted) < 0.6).all()
    healthy = np.stack([brain(k) for k in range(4)])
    assert np.abs(lesions.lesion_brightness(healthy, masks)).max() < 0.02


def test_the_profile_is_the_brightness_by_distance_from_the_border(pairs):
    images, masks = pairs
    profile, inside = lesions.brightness_profile(images, masks, MM), np.array(lesions.SHELLS_MM[1:]) <= 0
    assert profile.shape == (4, len(lesions.SHELLS_MM) - 1)
    assert profile[:, inside][np.isfinite(profile[:, inside])] == pytest.approx(0.3, abs=0.05)
    assert np.abs(np.nanmean(profile[:, ~inside], axis=0)).max() < 0.06  # not 0, because of lesions of other brains
    assert np.isnan(lesions.brightness_profile(images, masks & False, MM)).all()
    mm = lesions.distance_from_border(ball((10, 12, 10), 3), 2.0)
    assert mm[10, 12, 10] < mm[10, 12, 12] < 0 < mm[10, 12, 14] and mm[10, 12, 19] == mm[10, 12, 14] + 10


@pytest.fixture
def slabs():
    """White matter under 4 mm of cortex, which is 4 mm thicker inside the mask."""
    images, masks = np.zeros((4, 24, 24, 24), np.float32), np.zeros((4, 24, 24, 24), bool)
    images[:, 2:-2, 2:-2, 2:-2] = 0.6
    images[:, 2:-2, 2:-2, 20:22] = 0.8
    for k, (i, j) in enumerate(((3, 3), (3, 13), (13, 3), (13, 13))):
        masks[k, i : i + 8, j : j + 8, 18:22] = True
        images[k][masks[k]] = 0.8
    return images * np.linspace(0.7, 1.13, 24, dtype=np.float32)[:, None, None], masks


def test_thickening_is_that_of_the_simulated_cortex(slabs):
    images, masks = slabs
    mm = lesions.thickening(images, masks, MM)
    assert (mm > 2).all() and (mm < 6).all()
    assert (
        lesions.thickening(images, masks[[1, 2, 3, 0]], MM) < 0
    ).all()  # the cortex of another brain is thicker there
    equal = images[[0, 0, 0, 0]]
    assert lesions.thickening(equal, masks, MM) == pytest.approx([0] * 4, abs=1e-4)
    assert lesions.thickening(2 / 3 * images, masks, MM) == pytest.approx(mm, abs=0.02)


def test_the_ribbon_is_thicker_by_the_simulated_4_mm(slabs):
    depth, tissue = lesions.ribbon(slabs[0][0], MM)
    thickness = [4 * depth[column].sum() / (depth[column] > 0).sum() for column in ((15, 15), (7, 7))]
    assert thickness[1] - thickness[0] == pytest.approx(4, abs=0.5) and tissue[12, 12, 12] == 1 and not tissue[0].any()
    assert not lesions.ribbon(np.zeros(SHAPE), MM).any()


def test_the_thickening_of_an_empty_mask_is_nan(slabs):
    images, masks = slabs
    masks[1] = False
    assert np.isnan(lesions.thickening(images, masks, MM)).tolist() == [False, True, False, False]


def test_a_single_pair_has_no_metrics_that_need_other_images(pairs):
    images, masks = pairs
    rows, table = lesions.evaluate_lesions(images[:1], masks[:1], (images[:1], masks[:1]), MM)
    values = {row["metric"]: row["value"] for row in rows}
    assert values["lesion_fraction"] == 1 and values["dice"] == 1 and len(table) == 1
    assert np.isnan(
        [values[name] for name in ("lesion_brightness", "lesion_auc", "thickening_mm", "volume_wasserstein")]
    ).all()


def test_a_set_equal_to_the_reference_has_no_distance_to_it(pairs):
    rows, table = lesions.evaluate_lesions(*pairs, pairs, MM)
    by_name = {row["metric"]: row for row in rows}
    assert (
        by_name["dice"]["value"] == 1
        and by_name["hausdorff_mm"]["value"] == 0
        and by_name["lesion_fraction"]["value"] == 1
    )
    assert by_name["volume_wasserstein"]["value"] == by_name["place_wasserstein"]["value"] == 0
    assert by_name["left_fraction"]["value"] == 0.25 and by_name["lesion_brightness"]["low"] > 0.25 and len(table) == 4
    assert [row["features"] for row in rows if row["metric"] == "lesion_brightness_at"][:2] == ["-6.25 mm", "-3.75 mm"]


def test_a_set_without_lesions_has_rows_with_nan(pairs):
    images, masks = pairs
    rows, table = lesions.evaluate_lesions(images, masks & False, pairs, MM)
    by_name = {row["metric"]: row for row in rows}
    assert (
        by_name["lesion_fraction"]["value"] == 0
        and by_name["lesion_fraction"]["high"] < 0.6
        and by_name["dice"]["n"] == 0
    )
    assert all(
        np.isnan(by_name[name]["value"])
        for name in ("dice", "lesion_brightness", "volume_wasserstein", "left_fraction")
    )
    assert table["contrast"].isna().all()


def test_wasserstein_distances_of_volume_and_place_are_known():
    known = pd.DataFrame({"ml": [1.0, 10.0], "x_mm": [0.0, 2.0], "y_mm": [0.0, 0.0], "z_mm": [0.0, 0.0]})
    other = pd.DataFrame({"ml": [10.0, 100.0], "x_mm": [3.0, 5.0], "y_mm": [0.0, 0.0], "z_mm": [6.0, 6.0]})
    rows = {row["metric"]: row["value"] for row in lesions.compare_volume_and_place(known, other)}
    assert rows["volume_wasserstein"] == pytest.approx(1) and rows["place_wasserstein"] == pytest.approx(3)


def test_bad_masks_and_images_are_refused(pairs):
    images, masks = pairs
    with pytest.raises(ValueError, match="values 0 and 1; got shape .*, values 0 to 0.5"):
        lesions.as_masks(masks * 0.5)
    with pytest.raises(ValueError, match="must have one shape; got"):
        lesions.describe(images[:2], masks, MM)
    with pytest.raises(ValueError, match="two are needed; got 1"):
        lesions.lesion_brightness(images[:1], masks[:1])
    with pytest.raises(ValueError, match="two are needed; got 1"):
        lesions.thickening(images[:1], masks[:1], MM)
