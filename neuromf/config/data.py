"""Sections about data: who is scanned, how scans become volumes, and volumes latents."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Digest, Label, Positive, Section, Seed, Share

Cell = str | int | float | bool | None
Variation = Literal[
    "age_years", "lobes_mm", "gyri_mm", "folds_mm", "head_mm", "scale", "rotation_deg", "ventricles_mm", "tissue_bias",
    "contrast", "bias_field", "noise",
]  # fmt: skip  # of neuromf.phantom, whose fields a test compares with these


class Embedded(Section):
    n_participants: int = Field(320, ge=8)
    seed: Seed = 0
    shape: tuple[Count, Count, Count] = (128, 128, 75)
    spacing_mm: tuple[Positive, Positive, Positive] = (1.875, 1.875, 2.4)
    variation: dict[Variation, float | tuple[float, float]] = {}


class Folder(Section):
    root: str
    pattern: str = "**/*.nii.gz"
    scan_regex: str = "(?P<scan>.+)"
    participants: str | None = None
    columns: dict[Literal["person", "file", "sex", "age", "site"], str] = {}
    masks: str | None = None


class Bids(Section):
    root: str
    suffix: Label = "T1w"
    datatype: Label = "anat"
    participants: str | None = "participants.tsv"
    columns: dict[Literal["person", "sex", "age", "site"], str] = {}
    masks: str | None = None


class Table(Section):
    root: str
    scans: str
    columns: dict[Literal["file", "person", "dataset", "scan", "mask", "site", "sex", "age"], str]
    where: dict[str, Cell | Annotated[list[Cell], Field(min_length=1)]] = {}
    participants: str | None = None
    join: list[str] = []

    @model_validator(mode="after")
    def named(self) -> "Table":
        if absent := {"file", "person"} - self.columns.keys():
            raise ValueError(f"columns must name file and person; {', '.join(sorted(absent))} missing")
        if bool(self.participants) != bool(self.join):
            raise ValueError("participants and join go together: a second table, and the columns both tables share")
        return self


class Ixi(Section):
    folder: str = "data/ixi"
    t1: str = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI-T1.tar"
    t1_sha256: Digest | None = None
    demographics: str = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI.xls"
    demographics_sha256: Digest | None = None
    expected: Count = 581


class Split(Section):
    train: Share
    val: Share
    test: Share

    @model_validator(mode="after")
    def whole(self) -> "Split":
        if abs((total := self.train + self.val + self.test) - 1) > 1e-6:
            raise ValueError(f"shares of people must sum to 1; got {total:g}")
        return self


class Cohort(Section):
    source: Literal["embedded", "folder", "bids", "table", "ixi"] = "embedded"
    embedded: Embedded = Embedded()
    folder: Folder | None = None
    bids: Bids | None = None
    table: Table | None = None
    ixi: Ixi = Ixi()
    split: Split = Split(train=0.85, val=0.0, test=0.15)
    scans_per_shard: Count = 90

    @model_validator(mode="after")
    def sourced(self) -> "Cohort":
        if getattr(self, self.source) is None:
            least = "root, scans and columns" if self.source == "table" else "root"
            raise ValueError(f"source is {self.source}, so cohort.{self.source} must say at least {least}; got none")
        return self


class Volumes(Section):
    spacing_mm: Positive = 2.5
    shape: tuple[Count, Count, Count] = (64, 80, 64)
    percentiles: tuple[Annotated[float, Field(ge=0, lt=100)], Annotated[float, Field(gt=0, le=100)]] = (0.0, 99.5)
    bias_field: Literal["none", "n4"] = "none"
    strip: Literal["none", "synthstrip", "hd-bet"] = "none"
    skull_strip_device: Literal["cpu", "cuda"] = "cpu"
    skull_strip_timeout_s: Positive = 1800

    @model_validator(mode="after")
    def windowed(self) -> "Volumes":
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"volumes.percentiles must be low < high; got {self.percentiles}")
        return self

    @model_validator(mode="after")
    def encodable(self) -> "Volumes":
        if any(n % 4 for n in self.shape):
            raise ValueError(f"volumes.shape must be multiples of 4, the autoencoder's downsampling; got {self.shape}")
        return self


class Licence(Section):
    name: str
    address: str
    forbids: str


class VAE(Section):
    architecture: Literal["compact", "published"] = "compact"
    weights: str | None = "packaged"
    sha256: Digest | None = None
    url: str | None = None
    licence: Licence | None = None
    lpips: str | None = None
    steps: int = Field(0, ge=0)
    batch: Count = 2
    lr: Positive = 2e-3
    kl_weight: float = Field(1e-5, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"

    @model_validator(mode="after")
    def trained(self) -> "VAE":
        if self.weights is None and self.steps == 0:
            raise ValueError("vae.weights is null, so vae.steps must say how long to train; got 0")
        return self

    @model_validator(mode="after")
    def licensed(self) -> "VAE":
        if self.url and (self.licence is None or self.weights in (None, "packaged")):
            raise ValueError("vae.url needs vae.licence, shown before it is fetched, and a path in vae.weights")
        return self


class Latents(Section):
    mirror: bool = True
    copies: int = Field(0, ge=0)
    augmentation: dict[
        Literal["rotation_deg", "scale", "shift_mm", "gamma", "intensity"], Annotated[float, Field(ge=0)]
    ] = {}
    precision: Literal["float32", "bf16"] = "float32"
    n_validated: Count = 5
