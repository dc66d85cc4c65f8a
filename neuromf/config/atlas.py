"""Block `atlas`: the atlas of human brain function, learned from coordinate tables."""

import os
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from neuromf.config.types import Count, Fraction, Positive, Section, Seed, key

REAL_DATA = "NEUROMF_REAL_DATA"  # environment variable that names the folder of real data
Policy = Literal["transform", "keep", "drop"]
Modality = Literal["pet", "resting", "vbm", "connectivity"]


class Space(Section):
    tal: Policy = key(
        "Studies labelled TAL. transform: to MNI, unless that moves many foci out of the brain.", "transform"
    )
    unknown: Policy = key("Studies of unknown space.", "keep")


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
    exclude_modalities: list[Modality] = key("Studies with these flags, by their title, are excluded.", [])
    min_foci: Count = key("Studies with fewer foci after cleaning are excluded.", 5)
    split: tuple[Fraction, Fraction, Fraction] = key("Fractions of train, val and test.", (0.70, 0.15, 0.15))
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
        return self.model_dump(mode="json", include={"space", "min_foci", "exclude_modalities"})
