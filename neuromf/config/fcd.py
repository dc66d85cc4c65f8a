"""Section about the pathology: FLAIR and lesion mask together, from a base model and few cases."""

from typing import Any, Literal

from pydantic import Field, model_validator

from neuromf.config.data import Split
from neuromf.config.types import Count, Label, Positive, RunName, Section, Seed, Share

Strategy = Literal["vae", "distance", "downsample"]


class Simulated(Section):
    n_people: int = Field(48, ge=8)
    seed: Seed = 1000  # other people than those of the cohort
    thickening_mm: float = Field(2.0, ge=0)
    blurring_mm: float = Field(3.0, ge=0)
    hyperintensity: float = Field(0.35, ge=0)
    transmantle: Share = 0.5


class BidsPairs(Section):
    root: str
    suffix: Label = "FLAIR"
    mask_suffix: str = "FLAIR_roi"
    brains: str | None = None


class Pairs(Section):
    root: str
    images: str = "*/*_FLAIR.nii.gz"
    scan_regex: str = "(?P<scan>(?P<person>.+))_FLAIR"
    masks: str = "{scan}/{scan}_lesion.nii.gz"
    brains: str | None = None


class Adapter(Section):
    rank: Count = 16
    alpha: Positive = 16.0
    targets: Literal["attention", "convolutions", "both"] = "attention"


class Finetune(Section):
    epochs: Count = 500
    batch: Count = 8
    lr: Positive = 5e-5
    p_image: Positive = 1.5
    p_mask: Positive = 2.0
    patience: Count = 50  # epochs without a lower held-out raw loss before it ends
    seed: Seed = 0


class Fcd(Section):
    source: Literal["none", "simulated", "bids", "pairs"] = "none"
    simulated: Simulated = Simulated()
    bids: BidsPairs | None = None
    pairs: Pairs | None = None
    split: Split = Split(train=0.7, val=0.15, test=0.15)
    strategy: Literal["auto"] | Strategy = "auto"
    dice: Share = 0.85
    copies: int = Field(4, ge=0)
    adapter: Adapter = Adapter()
    finetune: Finetune = Finetune()
    n_samples: int = Field(32, ge=4)
    segmentation_steps: int = Field(200, ge=0)
    arms: dict[RunName, dict[Literal["strategy", "adapter", "finetune"], Any]] = {}
    active: list[RunName] = []

    @model_validator(mode="after")
    def sourced(self) -> "Fcd":
        if self.source in ("bids", "pairs") and getattr(self, self.source) is None:
            raise ValueError(f"source is {self.source}, so fcd.{self.source} must say at least root; got none")
        return self
