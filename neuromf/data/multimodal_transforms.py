"""MONAI dictionary transforms of multi-modal subjects: two Compose objects, for training and for validation.

Both orient, resample, normalise, stack modalities and pad or crop to the region of interest (ROI); training then crops
at random. With `train_margin` 0 that crop has the size of its input and does nothing; a margin enlarges the padded or
cropped image of training, so that the crop varies.

Padding: the literal `pad_value` 0 pads z-scored images with 0. Where zeros take part in the z-score (`nonzero` false),
the background is negative and padding is brighter than it. "background" pads each channel with the median of its border
faces, which are background in a skull-stripped image.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    MapLabelValued,
    MapTransform,
    NormalizeIntensityd,
    Orientationd,
    RandSpatialCropd,
    ResizeWithPadOrCrop,
    ResizeWithPadOrCropd,
    Spacingd,
    ToTensord,
    Transform,
)
from torch import Tensor

from neuromf.data.multimodal import MODALITIES, SEG, Subject, full_label_map

logger = logging.getLogger(__name__)

RETENTION_WARNING = 0.99  # fraction of segmented voxels inside the ROI below which a subject is reported


@dataclass(frozen=True)
class ImageSettings:
    """Settings of the transforms; defaults are those of the literal pipeline."""

    modalities: Sequence[str] = field(default_factory=lambda: list(MODALITIES))
    roi_size: Sequence[int] = (128, 128, 128)
    spacing: Sequence[float] = (1.0, 1.0, 1.0)
    orientation: str = "RAS"
    nonzero: bool = False  # z-score over voxels that are not 0
    pad_value: float | str = 0.0  # a number, or "background"
    train_margin: int = 0  # voxels by which training images exceed the ROI before the random crop
    label_map: Mapping[int, int] | None = None


def train_transforms(settings: ImageSettings) -> Compose:
    """Transforms of training: those of validation with `train_margin`, then a random crop to the ROI."""
    enlarged = [n + settings.train_margin for n in settings.roi_size]
    crop = RandSpatialCropd(["image", SEG], roi_size=settings.roi_size, random_size=False)
    return Compose([*_deterministic(settings, enlarged), crop, _to_tensor()])


def val_transforms(settings: ImageSettings) -> Compose:
    """Transforms of validation, without random ones."""
    return Compose([*_deterministic(settings, settings.roi_size), _to_tensor()])


def _deterministic(settings: ImageSettings, size: Sequence[int]) -> list[Transform]:
    modalities, both = list(settings.modalities), [*settings.modalities, SEG]
    codes = {code: label for code, label in full_label_map(settings.label_map).items() if code != label}
    recode = [MapLabelValued(SEG, [*codes], [*codes.values()])] if codes else []
    pad: Transform = ResizeWithPadOrCropd(["image", SEG], spatial_size=size)
    if settings.pad_value != 0:
        pad = ResizeWithPadValued(["image", SEG], spatial_size=size, pad_value=settings.pad_value)
    return [
        LoadImaged(both),
        EnsureChannelFirstd(both),
        Orientationd(both, axcodes=settings.orientation, labels=None),
        *recode,
        Spacingd(modalities, pixdim=settings.spacing, mode=["bilinear"] * len(modalities)),
        Spacingd(SEG, pixdim=settings.spacing, mode="nearest"),
        NormalizeIntensityd(modalities, nonzero=settings.nonzero, channel_wise=True),
        ConcatItemsd(modalities, name="image", dim=0),
        pad,
    ]


def _to_tensor() -> ToTensord:
    return ToTensord(["image", SEG], track_meta=False)


class ResizeWithPadValued(MapTransform):
    """ResizeWithPadOrCropd whose image is padded with `pad_value`, a number or "background"; segmentations with 0."""

    def __init__(self, keys: Sequence[str], spatial_size: Sequence[int], pad_value: float | str) -> None:
        super().__init__(keys)
        self.resize = ResizeWithPadOrCrop(spatial_size)
        self.pad_value = pad_value

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            value = torch.zeros(len(result[key])) if key == SEG else self._value(result[key])
            value = value.view(-1, 1, 1, 1)
            result[key] = self.resize(result[key] - value) + value  # padding with 0 is padding with `value`
        return result

    def _value(self, image: Tensor) -> Tensor:
        if self.pad_value == "background":
            return background_value(image)
        return torch.full((len(image),), float(self.pad_value))


def background_value(image: Tensor) -> Tensor:
    """Median of the six border faces of each channel, (C,), of an image (C, I, J, K)."""
    faces = [image.select(axis, end).flatten(1) for axis in (1, 2, 3) for end in (0, -1)]
    return torch.as_tensor(torch.cat(faces, 1)).median(1).values


# --- reports -----------------------------------------------------------------------------------------


def warn_of_padding(subject: Subject, settings: ImageSettings) -> float:
    """The largest difference of padding and background over the channels of a subject; logs a warning if it is not 0.

    0 if the image is not padded.
    """
    if settings.pad_value == "background":
        return 0.0
    image = Compose(_deterministic(settings, settings.roi_size)[:-1])(dict(subject))["image"]
    if all(n >= size for n, size in zip(image.shape[1:], settings.roi_size, strict=True)):
        return 0.0
    offset = float(settings.pad_value) - background_value(image)
    largest = float(offset[offset.abs().argmax()])
    if abs(largest) > 1e-3:
        logger.warning(
            "padding is %+.2f standard deviations off the background (subject %s); set data.pad_value: background",
            largest,
            subject["id"],
        )
    return largest


def tumour_retention(subject: Subject, settings: ImageSettings) -> float:
    """Fraction of segmented voxels that the ROI of validation retains; NaN without any."""
    steps = [
        LoadImaged(SEG),
        EnsureChannelFirstd(SEG),
        Orientationd(SEG, axcodes=settings.orientation, labels=None),
        Spacingd(SEG, pixdim=settings.spacing, mode="nearest"),
    ]
    seg = Compose(steps)({SEG: subject[SEG]})[SEG]
    n = int((seg > 0).sum())
    inside = int((ResizeWithPadOrCrop(settings.roi_size)(seg) > 0).sum())
    fraction = inside / n if n else float("nan")
    if fraction < RETENTION_WARNING:
        logger.warning(
            "%s: the ROI of %s voxels retains %.1f %% of the segmented voxels; raise data.roi_size or data.spacing",
            subject["id"],
            "x".join(map(str, settings.roi_size)),
            100 * fraction,
        )
    return fraction
