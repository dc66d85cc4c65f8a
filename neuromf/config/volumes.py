"""Block `volumes`: how scans become volumes on the grid of the study."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, NotNegative, Positive, Section, key


class Volumes(Section):
    spacing_mm: Positive = key("Isotropic voxel size in mm.")
    shape: tuple[Count, Count, Count] = key(
        "Voxels left-right, posterior-anterior, inferior-superior; multiples of 4 x net.patch x the network's strides."
    )
    bias_field: Literal["none", "n4"] = key(
        "n4: N4 bias field correction before intensities are scaled (pip install 'neuromf[n4]')."
    )
    skull_strip: Literal["none", "deepbet", "synthstrip", "hd-bet"] = key(
        "Skull stripping of scans without a brain mask: deepbet (pip install 'neuromf[strip]'), or a tool that you "
        "install; a mask has priority."
    )
    skull_strip_device: Literal["cpu", "cuda"] = key("Device of skull stripping.", "cpu")
    skull_strip_timeout_s: Positive = key("Seconds per scan after which skull stripping is stopped.", 1800)
    already_stripped: Literal["auto", "detect", "never"] = key(
        "Scans without a mask whose background was removed. detect: they are not stripped again; never: skull_strip "
        "runs on every scan; auto: never with a tool, detect without one.",
        "auto",
    )
    min_extent_mm: NotNegative = key(
        "Smallest field of view along any axis in mm; scouts, localisers and slabs below it are excluded.", 60.0
    )
    nan: Literal["refuse", "zero"] = key(
        "Voxels with NaN. refuse: the scan is excluded; zero: they are background, as SPM writes it.", "refuse"
    )
    percentiles: tuple[Annotated[float, Field(ge=0, lt=100)], Annotated[float, Field(gt=0, le=100)]] = key(
        "Percentiles of the foreground's intensities that become 0 and 1.", (0.0, 99.5)
    )

    @model_validator(mode="after")
    def check_percentiles(self) -> "Volumes":
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"volumes.percentiles must be low < high; got {self.percentiles}")
        return self

    @model_validator(mode="after")
    def check_shape(self) -> "Volumes":
        if any(n % 4 for n in self.shape):
            raise ValueError(f"volumes.shape must be multiples of 4, the autoencoder's downsampling; got {self.shape}")
        return self
