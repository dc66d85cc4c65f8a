"""Transforms of multi-modal subjects: order, padding, region of interest, randomness."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.transforms import Compose, LoadImaged, Randomizable, SpatialPad
from monai.utils import set_determinism

from neuromf.data.multimodal import MODALITIES, index_subjects
from neuromf.data.multimodal_loaders import write_retention
from neuromf.data.multimodal_transforms import (
    ImageSettings,
    ResizeWithPadValued,
    background_value,
    train_transforms,
    tumour_retention,
    val_transforms,
    warn_of_padding,
)

BRATS = Path(os.environ.get("NEUROMF_REAL_DATA", "../shared/data")) / "tumour_brats_style"
BOTH = [*MODALITIES, "seg"]
COMMON = ["LoadImaged", "EnsureChannelFirstd", "Orientationd", "Spacingd", "Spacingd", "NormalizeIntensityd"]
COMMON += ["ConcatItemsd", "ResizeWithPadOrCropd"]
SMALL = ImageSettings(roi_size=(16, 16, 16), spacing=(2.0, 2.0, 2.0))


@pytest.fixture
def subject(subject_folder):
    return index_subjects(subject_folder("A"))[0][0]


# --- order -------------------------------------------------------------------------------------------


def test_G03_transforms_are_those_of_the_table_in_its_order():
    train, val = train_transforms(ImageSettings()), val_transforms(ImageSettings())
    assert isinstance(train, Compose) and isinstance(val, Compose) and train is not val
    assert [type(step).__name__ for step in train.transforms] == [*COMMON, "RandSpatialCropd", "ToTensord"]
    assert [type(step).__name__ for step in val.transforms] == [*COMMON, "ToTensord"]


def test_G03_arguments_are_those_of_the_table():
    steps = train_transforms(ImageSettings()).transforms
    load, channel, orient, image, seg, normalise, concat, resize, crop, tensor = steps
    keys = [list(step.keys) for step in steps]
    assert keys == [BOTH, BOTH, BOTH, MODALITIES, ["seg"], MODALITIES, MODALITIES, *[["image", "seg"]] * 3]
    assert orient.ornt_transform.axcodes == "RAS"
    for step in (image, seg):
        assert step.spacing_transform.pixdim.tolist() == [1.0, 1.0, 1.0]
    assert list(image.mode) == ["bilinear"] * 4 and list(seg.mode) == ["nearest"]
    assert (normalise.normalizer.nonzero, normalise.normalizer.channel_wise) == (False, True)
    assert (concat.name, concat.dim) == ("image", 0)
    assert tuple(resize.padder.padder.spatial_size) == (128, 128, 128)
    assert (tuple(crop.cropper.roi_size), crop.cropper.random_size) == ((128, 128, 128), False)


def test_G03_image_is_z_scored_per_channel_and_labels_are_those_of_the_file(subject):
    item = val_transforms(ImageSettings(roi_size=(12, 14, 10), spacing=(2.0, 2.0, 2.0)))(dict(subject))
    assert item["image"].shape == (4, 12, 14, 10) and item["seg"].shape == (1, 12, 14, 10)
    assert item["image"].mean((1, 2, 3)).abs().max() < 1e-5
    assert (item["image"].std((1, 2, 3), correction=0) - 1).abs().max() < 1e-4
    resampled = val_transforms(ImageSettings(roi_size=(16, 16, 16), spacing=(1.3, 1.7, 2.2)))(dict(subject))
    assert set(resampled["seg"].unique().tolist()) <= {0, 1, 2, 3}


def test_G03_channels_follow_the_order_of_modalities(subject):
    one = val_transforms(SMALL)(dict(subject))["image"]
    turned = ImageSettings(modalities=MODALITIES[::-1], roi_size=(16, 16, 16), spacing=(2.0, 2.0, 2.0))
    other = val_transforms(turned)(dict(subject))["image"]
    assert (one == other.flip(0)).all() and not (one == other).all()


def test_G03_a_label_map_is_applied_to_the_segmentation(subject_folder):
    (subject,), _ = index_subjects(subject_folder("A", codes=(0, 1, 2, 4)))
    settings = ImageSettings(roi_size=(16, 16, 16), spacing=(2.0, 2.0, 2.0), label_map={4: 3})
    assert val_transforms(settings)(dict(subject))["seg"].unique().tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not BRATS.is_dir(), reason=f"{BRATS} is absent; set NEUROMF_REAL_DATA")
def test_G03_a_real_LPS_case_is_turned_to_RAS():
    (subject,), _ = index_subjects(BRATS)
    settings = ImageSettings(roi_size=(240, 240, 155), spacing=(1.0, 1.0, 1.0))
    seg = np.asarray(val_transforms(settings)(dict(subject))["seg"][0])
    raw = np.asarray(LoadImaged("seg")(dict(subject))["seg"])
    assert (seg == raw[::-1, ::-1]).all() and not (seg == raw).all()


# --- padding -----------------------------------------------------------------------------------------


def test_G04_literal_mode_pads_with_0_and_warns_with_the_offset(subject, caplog):
    image = val_transforms(SMALL)(dict(subject))["image"]
    assert (image[:, 0, 0, 0] == 0).all() and (background_value(image[:, 2:14, 1:15, 3:13]) < -0.5).all()
    with caplog.at_level(logging.WARNING):
        offset = warn_of_padding(subject, SMALL)
    assert offset == pytest.approx(-float(background_value(image[:, 2:14, 1:15, 3:13]).min()), abs=1e-4)
    assert f"{offset:+.2f} standard deviations off the background" in caplog.text


def test_G04_background_padding_equals_the_background_of_each_channel(subject, caplog):
    settings = ImageSettings(roi_size=(16, 16, 16), spacing=(2.0, 2.0, 2.0), pad_value="background")
    item = val_transforms(settings)(dict(subject))
    image, inside = item["image"], item["image"][:, 2:14, 1:15, 3:13]
    assert image[:, 0, 0, 0].tolist() == pytest.approx(inside[:, 0, 0, 0].tolist(), abs=1e-5)
    assert (image[:, 0] == image[:, :1, :1, 0]).all() and (image[:, 0, 0, 0] < -0.5).all()
    assert item["seg"][0, 0].max() == 0
    assert warn_of_padding(subject, settings) == 0.0 and caplog.text == ""


def test_G04_z_scores_over_voxels_above_0_leave_the_background_at_0(subject, caplog):
    settings = ImageSettings(roi_size=(16, 16, 16), spacing=(2.0, 2.0, 2.0), nonzero=True)
    assert warn_of_padding(subject, settings) == 0.0 and caplog.text == ""


def test_G04_a_number_pads_images_and_0_pads_segmentations(subject):
    item = ResizeWithPadValued(["image"], [16, 16, 16], -3.0)
    image = val_transforms(ImageSettings(roi_size=(12, 14, 10), spacing=(2.0,) * 3))(dict(subject))["image"]
    assert torch.allclose(item({"image": image})["image"], SpatialPad([16, 16, 16], value=-3.0)(image), atol=1e-6)


# --- region of interest ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(100, 100, 100), (160, 200, 150)])
def test_G05_any_input_gives_exactly_the_roi(subject_folder, shape):
    (subject,), _ = index_subjects(subject_folder("A", shape=shape, spacing=1.0))
    item = val_transforms(ImageSettings(roi_size=(32, 32, 32), spacing=(4.0, 4.0, 4.0)))(dict(subject))
    assert item["image"].shape == (4, 32, 32, 32) and item["seg"].shape == (1, 32, 32, 32)


def test_G05_retention_is_reported_and_a_cut_tumour_is_a_warning(subject_folder, tmp_path, caplog):
    seg = np.zeros((12, 14, 10), np.uint8)
    seg[5, 6, 5], seg[0, 6, 5] = 1, 3  # one of two voxels is outside the central 8^3
    root = subject_folder("A", "B")
    subject_folder("C", seg=seg)
    subject_folder("D", seg=np.zeros((12, 14, 10), np.uint8))
    subjects, _ = index_subjects(root)
    settings = ImageSettings(roi_size=(8, 8, 8), spacing=(2.0, 2.0, 2.0))
    with caplog.at_level(logging.WARNING):
        write_retention(tmp_path / "diagnostics/retention.csv", {"train": subjects[:3], "val": subjects[3:]}, settings)
    table = pd.read_csv(tmp_path / "diagnostics/retention.csv")
    assert table["id"].tolist() == ["A", "B", "C", "D"] and table["split"].tolist() == [*["train"] * 3, "val"]
    assert table["retention"].tolist()[:3] == [1.0, 1.0, 0.5] and np.isnan(table["retention"][3])
    assert "C: the ROI of 8x8x8 voxels retains 50.0 %" in caplog.text
    assert not any(record.getMessage().startswith(("A:", "B:", "D:")) for record in caplog.records)


@pytest.mark.skipif(not BRATS.is_dir(), reason=f"{BRATS} is absent; set NEUROMF_REAL_DATA")
def test_G05_retention_of_a_real_case():
    (subject,), _ = index_subjects(BRATS)
    assert tumour_retention(subject, ImageSettings(roi_size=(64, 64, 64), spacing=(3.0,) * 3)) > 0.99
    assert tumour_retention(subject, ImageSettings(roi_size=(32, 32, 32), spacing=(1.0,) * 3)) < 0.5


# --- randomness --------------------------------------------------------------------------------------


def test_G06_validation_is_deterministic_and_training_holds_the_random_crop(subject):
    val, train = val_transforms(SMALL), train_transforms(SMALL)
    assert not any(isinstance(step, Randomizable) for step in val.transforms)
    assert [type(s).__name__ for s in train.transforms if isinstance(s, Randomizable)] == ["RandSpatialCropd"]
    assert (val(dict(subject))["image"] == val(dict(subject))["image"]).all()
    assert (train(dict(subject))["image"] == val(dict(subject))["image"]).all()  # the crop has the size of its input


def test_G06_a_margin_lets_the_crop_vary(subject):
    settings = ImageSettings(roi_size=(8, 8, 8), spacing=(2.0, 2.0, 2.0), train_margin=4)
    set_determinism(0)
    train = train_transforms(settings)
    images = [train(dict(subject))["image"] for _ in range(4)]
    set_determinism(None)
    assert all(image.shape == (4, 8, 8, 8) for image in images)
    assert any((images[0] != image).any() for image in images[1:])
