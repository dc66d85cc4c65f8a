"""Semantic features of segmentations, normaliser and shape residuals."""

import json

import numpy as np
import pandas as pd
import pytest

from neuromf.data.semantic_features import (
    FEATURES,
    SHAPE,
    fit_normaliser,
    normalised_targets,
    semantic_features,
    shape_residuals,
)


def sphere(radius, n, centre=None):
    offset = np.indices((n,) * 3) - np.reshape(centre if centre is not None else [(n - 1) / 2] * 3, (3, 1, 1, 1))
    return ((offset**2).sum(0) <= radius**2).astype(np.uint8)


def test_G12_a_sphere_has_the_features_of_a_sphere():
    features, present = semantic_features(3 * sphere(10, 32), (1.0, 1.0, 1.0))
    assert np.expm1(features["log_volume_total"]) == pytest.approx(4 / 3 * np.pi * 1000, rel=0.02)
    assert features["log_volume_mass"] == features["log_volume_et"] == features["log_volume_total"]
    assert 0.95 < features["sphericity"] <= 1 and 0.97 < features["solidity"] <= 1
    assert np.expm1(features["log_area"]) == pytest.approx(4 * np.pi * 100, rel=0.03)
    assert [features[f"centroid_{axis}"] for axis in "xyz"] == [0.5, 0.5, 0.5]
    assert [features[f"ratio_{axes}"] for axes in ("xy", "xz", "yz")] == [1.0, 1.0, 1.0]
    assert (present["log_volume_ncr"], present["log_volume_et"]) == (0, 1)


def test_G12_the_centroid_is_that_of_the_voxels_and_volumes_are_in_mm3():
    seg = 2 * sphere(3, 20, centre=[5, 9, 14])
    features, _ = semantic_features(seg, (2.0, 2.0, 2.0))
    assert [features[f"centroid_{axis}"] for axis in "xyz"] == [5.5 / 20, 9.5 / 20, 14.5 / 20]
    assert np.expm1(features["log_volume_ed"]) == pytest.approx(8 * (seg > 0).sum())
    assert features["log_volume_mass"] == 0


def test_G12_a_plate_is_less_spherical_and_a_bent_plate_less_solid():
    plate, bent = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    plate[3:17, 3:17, 9:12] = 1
    bent[3:17, 3:6, 5:15] = bent[3:6, 3:17, 5:15] = 1
    flat, _ = semantic_features(plate, (1.0, 1.0, 1.0))
    corner, _ = semantic_features(bent, (1.0, 1.0, 1.0))
    assert flat["sphericity"] < 0.8 and flat["solidity"] > 0.9 > 0.7 > corner["solidity"]
    assert flat["ratio_xz"] == pytest.approx(14 / 3) and flat["ratio_xy"] == 1.0


def test_G12_absent_components_have_value_0_and_flag_0():
    features, present = semantic_features(np.zeros((8, 8, 8), np.uint8), (6.0, 6.0, 6.0))
    assert set(features) == set(FEATURES) and not any(features.values()) and not any(present.values())
    one = np.zeros((8, 8, 8), np.uint8)
    one[3, 3, 3] = 3
    features, present = semantic_features(one, (6.0, 6.0, 6.0))
    assert np.isfinite(list(features.values())).all() and features["sphericity"] <= 1
    assert present["log_volume_ed"] == 0 == features["log_volume_ed"] and present["sphericity"] == 1


# --- normaliser --------------------------------------------------------------------------------------


@pytest.fixture
def tables():
    rows = [semantic_features((2 + k % 2) * sphere(2 + k / 5, 24), (1.0, 1.0, 1.0)) for k in range(20)]
    rows += [semantic_features(np.zeros((24, 24, 24)), (1.0, 1.0, 1.0))]
    return pd.DataFrame([features for features, _ in rows]), pd.DataFrame([present for _, present in rows])


def test_G13_validation_subjects_do_not_change_the_normaliser(tables):
    features, present = tables
    train = json.dumps(fit_normaliser(features[:15], present[:15]))
    changed = features.copy()
    changed.loc[15:] = 99.0
    assert json.dumps(fit_normaliser(changed[:15], present[:15])) == train
    assert json.dumps(fit_normaliser(features, present)) != train
    assert set(json.loads(train)) == {"shape", "mean", "std"}


def test_G13_shape_residuals_do_not_correlate_with_volume_on_training_subjects(tables):
    features, present = tables
    train = present["log_volume_total"] > 0
    raw = np.corrcoef(features.loc[train, "log_area"], features.loc[train, "log_volume_total"])[0, 1]
    residuals = shape_residuals(features, fit_normaliser(features, present)["shape"])[train]
    assert raw > 0.95
    for name in SHAPE:
        if residuals[name].std() > 1e-9:
            assert abs(np.corrcoef(residuals[name], features.loc[train, "log_volume_total"])[0, 1]) < 0.05, name


def test_G13_targets_have_unit_variance_and_absent_features_are_0(tables):
    features, present = tables
    targets = normalised_targets(features, present, fit_normaliser(features, present))
    inside = targets.loc[present["log_volume_total"] > 0, "log_volume_total"]
    assert inside.mean() == pytest.approx(0, abs=1e-9) and inside.std(ddof=0) == pytest.approx(1)
    assert (targets.loc[20] == 0).all() and (targets["log_volume_ncr"] == 0).all()


def test_G13_too_few_tumours_are_refused(tables):
    features, present = tables
    with pytest.raises(ValueError, match="need two training subjects with a tumour; got 0"):
        fit_normaliser(features[20:], present[20:])
