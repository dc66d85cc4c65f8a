"""Lesions beside real ones: exact cases of volume, place, overlap, ring and agreement."""

import numpy as np
import pandas as pd
import pytest

from neuromf.metrics import lesions

SHAPE, MM = (20, 24, 20), 2.0


def ball(centre, radius=3.0):
    return np.linalg.norm(np.indices(SHAPE).T - np.array(centre), axis=-1).T <= radius


def head(seed=0):
    inside = ball((10, 12, 10), 9.0)
    return np.where(inside, 0.5 + 0.02 * np.random.default_rng(seed).standard_normal(SHAPE), 0.0)


@pytest.fixture
def pairs():
    """Heads with a bright lesion where the mask says so, each at its own place."""
    masks = np.stack([ball(c) for c in ((7, 12, 10), (13, 12, 10), (10, 8, 10), (10, 16, 12))])
    images = np.stack([np.where(mask, head(k) + 0.3, head(k)) for k, mask in enumerate(masks)])
    return images, masks


def test_a_lesion_is_described_as_it_was_planted(pairs):
    images, masks = pairs
    row = lesions.describe(images, masks, MM).iloc[0]
    assert row["ml"] == pytest.approx(masks[0].sum() * 8 / 1000) and row["pieces"] == 1
    assert row["x_mm"] == pytest.approx(-6, abs=0.3) and row["y_mm"] == pytest.approx(0, abs=0.3)
    assert row["inside"] - row["ring"] == pytest.approx(0.3, abs=0.02) and row["contrast"] > 2


def test_the_ring_lies_between_its_distances_and_not_in_the_lesion():
    mask = ball((10, 12, 10), 1.0)
    found = lesions.ring(mask, MM)
    away = MM * np.linalg.norm(np.argwhere(found) - (10, 12, 10), axis=1)
    assert away.min() > 2.5 and away.max() <= 10 + MM and not (found & mask).any()


def test_a_mask_against_itself_is_perfect():
    masks = np.stack([ball((7, 12, 10)), ball((13, 12, 10))])
    found = lesions.nearest(masks, masks[::-1], MM)
    assert found["nearest"].tolist() == [1, 0] and found["dice"].tolist() == [1, 1]
    assert found["hausdorff_mm"].tolist() == [0, 0]


def test_dice_and_hausdorff_of_a_shift_are_those_of_the_formula():
    mask, moved = np.zeros((2, *SHAPE), bool)
    mask[5:9, 5:9, 5:9], moved[7:11, 5:9, 5:9] = True, True
    assert lesions.dices(mask, moved[None])[0] == 0.5
    assert lesions.hausdorff(mask, moved, MM) == pytest.approx(4.0)
    assert (
        np.isnan(lesions.hausdorff(mask, moved & False, MM))
        and lesions.dices(mask & False, moved[None] & False)[0] == 1
    )


def test_without_any_overlap_the_nearest_centre_is_taken():
    masks = np.stack([ball((4, 12, 10), 1), ball((16, 12, 10), 1)])
    assert lesions.nearest(ball((14, 12, 4), 1)[None], masks, MM)["nearest"].tolist() == [1]


def test_excess_and_agreement_say_whether_image_and_mask_belong_together(pairs):
    images, masks = pairs
    assert lesions.excess(images, masks) == pytest.approx([0.3] * 4, abs=0.03)
    assert (lesions.agreement(images, masks) > 0.98).all()
    assert (lesions.agreement(images + ball((10, 12, 4), 3.0), masks) > 0.98).all()  # bright in every head
    other = masks[[1, 2, 3, 0]]
    assert (np.abs(lesions.excess(images, other) + 0.1) < 0.03).all()  # others have their lesion there
    assert (lesions.agreement(images, other) < 0.6).all()
    plain = np.stack([head(k) for k in range(4)])
    assert np.abs(lesions.excess(plain, masks)).max() < 0.02


def test_a_profile_is_the_excess_by_distance_from_the_border(pairs):
    images, masks = pairs
    found, inside = lesions.profile(images, masks, MM), np.array(lesions.SHELLS_MM[1:]) <= 0
    assert found.shape == (4, len(lesions.SHELLS_MM) - 1)
    assert found[:, inside][np.isfinite(found[:, inside])] == pytest.approx(0.3, abs=0.05)
    assert np.abs(np.nanmean(found[:, ~inside], axis=0)).max() < 0.06  # but where others have theirs
    assert np.isnan(lesions.profile(images, masks & False, MM)).all()
    away = lesions.from_border(ball((10, 12, 10), 3), 2.0)
    assert away[10, 12, 10] < away[10, 12, 12] < 0 < away[10, 12, 14] and away[10, 12, 19] == away[10, 12, 14] + 10


@pytest.fixture
def slabs():
    """Heads of white matter under 4 mm of cortex, which has 4 mm more under a patch at its own place."""
    images, masks = np.zeros((4, 24, 24, 24), np.float32), np.zeros((4, 24, 24, 24), bool)
    images[:, 2:-2, 2:-2, 2:-2] = 0.6
    images[:, 2:-2, 2:-2, 20:22] = 0.8
    for k, (i, j) in enumerate(((3, 3), (3, 13), (13, 3), (13, 13))):
        masks[k, i : i + 8, j : j + 8, 18:22] = True
        images[k][masks[k]] = 0.8
    return images * np.linspace(0.7, 1.13, 24, dtype=np.float32)[:, None, None], masks


def test_thickening_says_where_the_ribbon_is_thicker_and_nowhere_else(slabs):
    images, masks = slabs
    assert ((found := lesions.thickening(images, masks, MM)) > 2).all() and (found < 6).all()
    moved = lesions.thickening(images, masks[[1, 2, 3, 0]], MM)
    assert (moved < 0).all()  # another head is thicker there
    plain = images[[0, 0, 0, 0]]
    assert lesions.thickening(plain, masks, MM) == pytest.approx([0] * 4, abs=1e-4)
    assert lesions.thickening(2 / 3 * images, masks, MM) == pytest.approx(found, abs=0.02)


def test_a_ribbon_is_deeper_by_what_was_planted(slabs):
    depth, tissue = lesions.ribbon(slabs[0][0], MM)
    deep = [4 * depth[column].sum() / (depth[column] > 0).sum() for column in ((15, 15), (7, 7))]
    assert deep[1] - deep[0] == pytest.approx(4, abs=0.5) and tissue[12, 12, 12] == 1 and not tissue[0].any()
    assert not lesions.ribbon(np.zeros(SHAPE), MM).any()


def test_the_thickening_of_an_empty_mask_is_no_number(slabs):
    images, masks = slabs
    masks[1] = False
    assert np.isnan(lesions.thickening(images, masks, MM)).tolist() == [False, True, False, False]


def test_one_pair_alone_is_judged_by_what_needs_no_other(pairs):
    images, masks = pairs
    rows, table = lesions.judge(images[:1], masks[:1], (images[:1], masks[:1]), MM)
    values = {row["metric"]: row["value"] for row in rows}
    assert values["lesion_fraction"] == 1 and values["dice"] == 1 and len(table) == 1
    assert np.isnan([values[name] for name in ("lesion_brightness", "lesion_auc", "thickening_mm", "volume_wasserstein")]).all()


def test_a_set_is_judged_against_known_pairs(pairs):
    rows, table = lesions.judge(*pairs, pairs, MM)
    found = {row["metric"]: row for row in rows}
    assert found["dice"]["value"] == 1 and found["hausdorff_mm"]["value"] == 0 and found["lesion_fraction"]["value"] == 1
    assert found["volume_wasserstein"]["value"] == found["place_wasserstein"]["value"] == 0
    assert found["left_fraction"]["value"] == 0.25 and found["lesion_brightness"]["low"] > 0.25 and len(table) == 4
    assert [row["features"] for row in rows if row["metric"] == "lesion_brightness_at"][:2] == ["-6.25 mm", "-3.75 mm"]


def test_sets_with_few_or_no_lesions_have_rows_without_numbers(pairs):
    images, masks = pairs
    rows, table = lesions.judge(images, masks & False, pairs, MM)
    found = {row["metric"]: row for row in rows}
    assert found["lesion_fraction"]["value"] == 0 and found["lesion_fraction"]["high"] < 0.6 and found["dice"]["n"] == 0
    assert all(np.isnan(found[name]["value"]) for name in ("dice", "lesion_brightness", "volume_wasserstein", "left_fraction"))
    assert table["contrast"].isna().all()


def test_distances_of_volume_and_place_are_those_of_the_formula():
    known = pd.DataFrame({"ml": [1.0, 10.0], "x_mm": [0.0, 2.0], "y_mm": [0.0, 0.0], "z_mm": [0.0, 0.0]})
    found = pd.DataFrame({"ml": [10.0, 100.0], "x_mm": [3.0, 5.0], "y_mm": [0.0, 0.0], "z_mm": [6.0, 6.0]})
    rows = {row["metric"]: row["value"] for row in lesions.places(known, found)}
    assert rows["volume_wasserstein"] == pytest.approx(1) and rows["place_wasserstein"] == pytest.approx(3)


def test_what_is_no_mask_is_refused(pairs):
    images, masks = pairs
    with pytest.raises(ValueError, match="hold 0 and 1; got shape .*, values 0 to 0.5"):
        lesions.as_masks(masks * 0.5)
    with pytest.raises(ValueError, match="must have one shape; got"):
        lesions.describe(images[:2], masks, MM)
    with pytest.raises(ValueError, match="two are needed; got 1"):
        lesions.excess(images[:1], masks[:1])
    with pytest.raises(ValueError, match="two are needed; got 1"):
        lesions.thickening(images[:1], masks[:1], MM)
