"""Block `atlas`: the atlas of human brain function, learned from coordinate tables."""

import os
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from neuromf.config.types import Count, Digest, Fraction, Positive, Section, Seed, key

REAL_DATA = "NEUROMF_REAL_DATA"  # environment variable that names the folder of real data
Policy = Literal["transform", "keep", "drop"]
Modality = Literal["pet", "resting", "vbm", "connectivity"]
PAIN_STUDIES = {1: 25, 2: 25, 5: 9, 6: 9, 7: 9, 11: 12, 14: 24, 15: 14, 16: 14, 17: 12, 18: 12, 19: 16, 20: 16, 21: 16}
LDA50 = "data-neurosynth_version-7_vocab-LDA50"
SHA256 = {
    f"{LDA50}_keys.tsv": "7d2c872af784eb0bb96e7f2d63ba5c699cd002d3f58baa60353d9450c9431bac",
    "neurovault_10426_button_press_z.nii.gz": "badcac9bed4734f22b5c6dca1b778ade6c4d10a25ab30b807ff42f7c53304dbe",
}


class Space(Section):
    tal: Policy = key(
        "Studies labelled TAL. transform: to MNI, unless that moves many foci out of the brain.", "transform"
    )
    unknown: Policy = key("Studies of unknown space.", "keep")


class Downloads(Section):
    neurosynth: str = key(
        "Address of the folder of Neurosynth version 7.",
        "https://raw.githubusercontent.com/neurosynth/neurosynth-data/209c33cd009d0b069398a802198b41b9c488b9b7",
    )
    button_press: str = key(
        "Address of NeuroVault image 10426.",
        "https://raw.githubusercontent.com/nilearn/nilearn/59fffa24b81712132c78549c242f68d0f3db8a67/nilearn/datasets/"
        "data/image_10426.nii.gz",
    )
    pain: str = key(
        "Address of the folder of NeuroVault collection 1425, with contrast_pain_{study}.nii.gz and "
        "var_pain_{study}.nii.gz.",
        "https://raw.githubusercontent.com/simonvandekar/pain21/99073b7848e1069b90cf62c36f409c3f7b372c47/inst/pain21",
    )
    pain_studies: dict[int, Count] = key("Rows of the design matrix by number of the pain study.", PAIN_STUDIES)
    sha256: dict[str, Digest] = key(
        "SHA-256 by file name. The digest of a file that is not named is recorded at its first download, and expected "
        "afterwards.",
        SHA256,
    )


class Evaluation(Section):
    n_z: Count = key("Latents per rate.", 64)
    n_studies: Count | None = key("Test studies whose rates are decoded, chosen at random; null: all.", None)
    n_validation: Count | None = key("Validation studies that choose the mixing weight, likewise.", 200)
    n_generated: Count = key("Most maps of precision, recall, density and coverage.", 2000)
    n_permutations: Count = key("Permutations of the leakage null.", 20)
    hcp_root: str | None = key(
        "Folder of your own HCP contrast maps, {task}_{name}.nii.gz; null: none.", None, path=True
    )


class Uncertainty(Section):
    n_studies: Count | None = key(
        "Studies per split on which the calibration of ensembles is evaluated, at random; null: all.", 200
    )


class Timeline(Section):
    per_year: Count = key("Most studies per year whose maps are decoded for the timeline, at random.", 100)
    projection: Literal["umap", "pca"] = key("Axes of the latent space in the timeline.", "umap")


class PriorTraining(Section):
    """Section `atlas.prior.train`: keyword arguments of `neuromf.atlas.latent_prior.train_prior`."""

    n_steps: Count = key("Optimiser steps.", 600)
    batch: Count = key("Latents per step.", 256)
    lr: Positive = key("Peak learning rate of Adam.", 2e-3)
    width: Count = key("Width of the network.", 128)
    depth: Count = key("Residual blocks of the network.", 2)
    halflife_steps: Count = key("Half-life of the weight average in steps.", 100)
    fraction_r_equals_t: Fraction = key("Fraction of flow-matching pairs, r = t.", 0.5)
    fraction_corner: Fraction = key("Fraction of pairs near one-step generation, t > .9 and r < .1.", 0.1)


class PriorEvaluation(Section):
    """Section `atlas.prior.evaluation`: keyword arguments of `neuromf.atlas.prior_evaluation.compare_priors`."""

    n_z: Count = key("Latents per rate.", 32)
    n_studies: Count | None = key("Studies per split whose rates are decoded, at random; null: all.", 200)
    n_generated: Count = key("Most maps of precision, recall, density and coverage.", 2000)


class LatentPrior(Section):
    train: PriorTraining = key("Training of the one-step prior of the latents.", PriorTraining())
    evaluation: PriorEvaluation = key("Comparison of the one-step prior with N(0, I).", PriorEvaluation())


class Comparators(Section):
    topics: list[str] = key("Words of the topics that NiMARE analyses.", ["pain", "motor", "reading"], min_length=1)
    most: Count = key("Most studies per topic; the target atlas_long takes all topics.", 300)


class Atlas(Section):
    scale: Literal["auto", "full", "subset_1k", "mock"] = key(
        "Studies. full: all of Neurosynth; subset_1k: 1,000 of them, for development; mock: 100 simulated studies, "
        "which test the chain and give no result; auto: full where data_root holds Neurosynth, else mock."
    )
    data_root: str | None = key(
        "Folder with neurosynth_v7 and statmaps; null: NEUROMF_REAL_DATA of the environment, or ../shared/data.",
        None,
        path=True,
    )
    grid: Literal["6mm", "2mm"] = key("Grid of maps. 6mm: 32 x 40 x 32 voxels; 2mm: 91 x 109 x 91, for a GPU.", "6mm")
    kernels: list[Positive] = key("Full widths at half maximum of the kernels in mm.", [9.0, 12.0], min_length=1)
    combine: Literal["noisy_or", "sum", "max"] = key("How the kernels of a study's foci are combined.", "noisy_or")
    space: Space = key("What to do with coordinates that are not labelled MNI.", Space())
    max_rise: Fraction = key(
        "Rise of a study's fraction of foci outside the brain above which its label of space counts as wrong, so "
        "that it is not transformed; 1: every study is.",
        0.10,
    )
    exclude_modalities: list[Modality] = key("Studies with these flags, by their title, are excluded.", [])
    min_foci: Count = key("Studies with fewer foci after cleaning are excluded.", 5)
    split: tuple[Fraction, Fraction, Fraction] = key("Fractions of train, val and test.", (0.70, 0.15, 0.15))
    evaluation: Evaluation = key("Evaluation of trained models.", Evaluation())
    uncertainty: Uncertainty = key("Calibration of ensembles.", Uncertainty())
    timeline: Timeline = key("Zeitgeist timeline, 1997 to 2018.", Timeline())
    prior: LatentPrior = key("One-step prior of the latents: MeanFlow on z.", LatentPrior())
    comparators: Comparators = key("Classical meta-analyses by NiMARE.", Comparators())
    downloads: Downloads = key("What the rules atlas_neurosynth and atlas_statmaps download.", Downloads())
    seed: Seed = key("Seed of mock studies, subset and splits.", 0)

    @model_validator(mode="after")
    def check_split(self) -> "Atlas":
        if abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(f"atlas.split must sum to 1; got {list(self.split)}")
        return self

    def root(self, repository: Path) -> Path:
        """Folder of real data; relative paths are relative to the repository."""
        return repository / (self.data_root or os.environ.get(REAL_DATA, "../shared/data"))

    def chosen_scale(self, repository: Path) -> str:
        """The scale, with `auto` replaced by full if the folder of real data has Neurosynth, else by mock."""
        if self.scale != "auto":
            return self.scale
        return "full" if (self.root(repository) / "neurosynth_v7").is_dir() else "mock"

    def cleaning(self) -> dict:
        """Keyword arguments of `neuromf.atlas.cleaning.clean_tables`, without the scale."""
        return self.model_dump(mode="json", include={"space", "max_rise", "min_foci", "exclude_modalities"})

    def statistical_maps(self) -> dict:
        """Keyword arguments of `neuromf.data.atlas_downloads.fetch_statistical_maps`, without the folder."""
        values = self.downloads.model_dump(mode="json", include={"button_press", "pain", "sha256"})
        studies = self.downloads.pain_studies
        return {**values, "pain_studies": list(studies), "design_rows": list(studies.values())}
