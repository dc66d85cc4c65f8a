"""Block `lesions`: FLAIR and lesion mask of a rare pathology, from a MeanFlow run and few cases."""

from typing import Any, Literal

from pydantic import ValidationError, model_validator

from neuromf.config.cohort import Split
from neuromf.config.types import Count, Fraction, Label, NotNegative, Positive, RunName, Section, Seed, key

Encoding = Literal["vae", "distance", "downsample", "level"]
MAIN = "joint"  # the arm of the section as it stands


class Simulated(Section):
    n_participants: int = key("Number of simulated participants.", ge=8)
    seed: Seed = key("Seed of the simulation; other participants than those of cohort.embedded.", 1000)
    thickening_mm: NotNegative = key("Growth of the cortex into the white matter in mm.", 2.0)
    blurring_mm: NotNegative = key("Width of the blurred border of grey and white matter in mm.", 3.0)
    hyperintensity: NotNegative = key("Signal increase as a fraction of the tissue's own signal.", 0.35)
    transmantle: Fraction = key("Fraction of lesions with a funnel from cortex to ventricle.", 0.5)


class BidsPairs(Section):
    root: str = key("BIDS folder.", path=True)
    suffix: Label = key("BIDS suffix of the images.", "FLAIR")
    mask_suffix: str = key("BIDS suffix of the lesion masks.", "FLAIR_roi")
    brains: str | None = key("Template of brain masks below root.", None)


class Pairs(Section):
    root: str = key("Folder of images and masks.", path=True)
    images: str = key("Glob pattern of images below root.", "*/*_FLAIR.nii.gz")
    scan_regex: str = key(
        "Regular expression with the groups scan, participant and site.", "(?P<scan>(?P<participant>.+))_FLAIR"
    )
    masks: str = key("Template of lesion masks below root.", "{scan}/{scan}_lesion.nii.gz")
    brains: str | None = key("Template of brain masks below root.", None)


class Adapter(Section):
    rank: Count = key("LoRA rank.", 16)
    alpha: Positive = key("The output of the adapters is scaled by alpha / rank.", 16.0)
    targets: Literal["attention", "convolutions", "both"] = key("Layers with an adapter.", "attention")


class Prior(Section):
    kind: Literal["none", "pair", "lesion"] = key(
        "Gaussian prior of fine-tuning. none: the prior of the base run; pair: image and mask vary together; lesion: "
        "brains vary, and each has about one of the training lesions."
    )
    axes: Count = key("Principal axes of pairs or brains, at most; many axes overfit.")
    gaussian_fraction: Fraction = key(
        "Fraction of lesion variance in the Gaussian; the rest is in the component means.", 0.5
    )
    mask_residual_variance: NotNegative = key("Residual variance of mask channels.", 0.1)


class Finetune(Section):
    epochs: Count = key("Epochs of fine-tuning, at most.")
    batch: Count = key("Pairs per batch.", 8)
    lr: Positive = key("Peak learning rate.")
    p_image: Positive = key("Exponent of the loss of image channels.", 1.5)
    p_mask: Positive = key("Exponent of the loss of mask channels.", 2.0)
    mask_weight: Positive = key("Weight of mask channels in the loss.", 4.0)
    patience: Count = key("Epochs without a lower validation loss after which fine-tuning stops.", 50)
    seed: Seed = key("Seed of fine-tuning.", 0)


class Arm(Section):
    mask_encoding: Literal["auto"] | Encoding
    adapter: Adapter
    prior: Prior
    finetune: Finetune


class Lesions(Section):
    source: Literal["simulated", "bids", "pairs"] = key(
        "Where pairs come from. simulated: embedded participants with focal cortical dysplasia; bids, pairs: your own "
        "cases."
    )
    split: Split = key("Fractions of participants with usable pairs.")
    mask_encoding: Literal["auto"] | Encoding = key(
        "How masks become latents. vae: through the autoencoder; distance: their signed distance through it; level: "
        "their signed distance, averaged; downsample: every fourth voxel; auto: chosen by the Dice of encode-decode."
    )
    n_augmented: int = key(
        "Versions of each training pair: the first is mirrored, others are also moved and brightened.", ge=0
    )
    prior: Prior = key("Gaussian prior that fine-tuning starts from.")
    finetune: Finetune = key("Fine-tuning of the adapters.")
    n_samples: int = key("Generated pairs, one network evaluation each.", ge=4)
    segmentation_steps: int = key(
        "Training steps of a small segmentation network, with and without generated pairs; 0: off.", ge=0
    )
    simulated: Simulated = key("Settings of source simulated.")
    bids: BidsPairs | None = key("Settings of source bids.", None)
    pairs: Pairs | None = key("Settings of source pairs.", None)
    min_vae_dice: Fraction = key("auto takes vae above this Dice, else the better of the others.", 0.85)
    adapter: Adapter = key("LoRA adapters beside the frozen weights of the base run.", Adapter())
    mask_threshold: Literal["volume", "encoding"] = key(
        "Threshold of generated masks. volume: they have the mean volume of training lesions; encoding: that of "
        "encode-decode.",
        "volume",
    )
    arms: dict[RunName, dict[Literal["mask_encoding", "adapter", "prior", "finetune"], Any]] = key(
        "Arms by name: what they change of mask_encoding, adapter, prior and finetune; equal settings are one run."
    )
    run: list[RunName] = key("Arms that are run beside the main one.")

    @model_validator(mode="after")
    def check_source(self) -> "Lesions":
        if self.source in ("bids", "pairs") and getattr(self, self.source) is None:
            raise ValueError(f"source is {self.source}, so lesions.{self.source} needs at least root; got none")
        return self

    @model_validator(mode="after")
    def check_arms(self) -> "Lesions":
        if unknown := set(self.run) - set(self.arms):
            raise ValueError(f"run names {sorted(unknown)}; allowed are the arms of lesions.arms: {sorted(self.arms)}")
        if MAIN in self.arms:
            raise ValueError(f"{MAIN} is the name of the main arm; rename that of lesions.arms")
        for name in self.arms:
            self.arm(name)
        return self

    def arm(self, name: str) -> Arm:
        """Settings of one arm: those of this section, with what the arm changes."""
        own: dict[str, Any] = self.model_dump(include=set(Arm.model_fields))
        for part, change in self.arms.get(name, {}).items():
            own[part] = {**own[part], **change} if isinstance(change, dict) and isinstance(own[part], dict) else change
        try:
            return Arm.model_validate(own)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"arm {name}, {place}: {first['msg']}; found {first['input']!r}") from None

    def plan(self) -> tuple[dict[str, Arm], dict[str, str]]:
        """Settings of every run by name, and the run of every arm; equal settings are one run, named by the first."""
        runs: dict[str, Arm] = {}
        arms: dict[str, str] = {}
        for name in [MAIN, *self.run]:
            settings = self.arm(name)
            arms[name] = next((run for run, other in runs.items() if other == settings), name)
            runs.setdefault(arms[name], settings)
        return runs, arms
