"""Section about the pathology: FLAIR and lesion mask together, from a base model and few cases."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from neuromf.config.data import Split
from neuromf.config.types import Count, Label, Positive, RunName, Section, Seed, Share

Strategy = Literal["vae", "distance", "downsample", "level"]
NotNegative = Annotated[float, Field(ge=0)]
MAIN = "joint"  # the arm of the section as it stands


class Simulated(Section):
    n_participants: int = Field(48, ge=8)
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
    refit: Literal["none", "pair", "lesion"] = "lesion"
    axes: Count = 16
    loose: Share = 0.5  # of lesion: share of its variance that is Gaussian
    mask_residual_variance: NotNegative = 0.1  # of lesion: variance off the axes, of mask channels
    epochs: Count = 500
    batch: Count = 8
    lr: Positive = 5e-5
    p_image: Positive = 1.5
    p_mask: Positive = 2.0
    mask_weight: Positive = 1.0
    patience: Count = 50  # epochs without a lower held-out raw loss before it ends
    seed: Seed = 0


class Joint(Section):
    strategy: Literal["auto"] | Strategy
    adapter: Adapter
    finetune: Finetune


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
    threshold: Literal["volume", "strategy"] = "volume"
    segmentation_steps: int = Field(200, ge=0)
    arms: dict[RunName, dict[Literal["strategy", "adapter", "finetune"], Any]] = {}
    active: list[RunName] = []

    @model_validator(mode="after")
    def sourced(self) -> "Fcd":
        if self.source in ("bids", "pairs") and getattr(self, self.source) is None:
            raise ValueError(f"source is {self.source}, so fcd.{self.source} must say at least root; got none")
        return self

    @model_validator(mode="after")
    def compared(self) -> "Fcd":
        if unknown := set(self.active) - set(self.arms):
            raise ValueError(f"active names {sorted(unknown)}, which fcd.arms does not hold: {sorted(self.arms)}")
        if MAIN in self.arms:
            raise ValueError(f"{MAIN} is the name of the arm of fcd as it stands; give that of fcd.arms another")
        for name in self.arms:
            self.arm(name)
        return self

    def arm(self, name: str) -> "Joint":
        """What makes one arm: this section's own settings with what the arm changes."""
        own: dict[str, Any] = {
            "strategy": self.strategy,
            "adapter": self.adapter.model_dump(),
            "finetune": self.finetune.model_dump(),
        }
        for key, change in self.arms.get(name, {}).items():
            own[key] = {**own[key], **change} if isinstance(change, dict) else change
        try:
            return Joint.model_validate(own)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"arm {name}, {place}: {first['msg']}; found {first['input']!r}") from None

    def joints(self) -> tuple[dict[str, "Joint"], dict[str, str]]:
        """Settings of every run by name, and the run of every arm: equal settings are one run, of the first name."""
        runs: dict[str, Joint] = {}
        arms: dict[str, str] = {}
        for name in [MAIN, *self.active]:
            settings = self.arm(name)
            arms[name] = next((run for run, other in runs.items() if other == settings), name)
            runs.setdefault(arms[name], settings)
        return runs, arms
