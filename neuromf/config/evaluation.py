"""Sections about judging: features and metrics, what questions are asked of, and bounds of gates."""

from typing import Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Digest, Positive, Section


class Features(Section):
    name: Literal["encoder", "radimagenet", "r3d18", "inception", "med3d"]
    weights: str | None = None
    sha256: Digest | None = None
    n: Count | None = None

    @model_validator(mode="after")
    def found(self) -> "Features":
        if (self.name == "encoder") == bool(self.weights):
            raise ValueError(f"features {self.name}: weights are a path for published networks, and none for encoder")
        return self


class Metrics(Section):
    features: list[Features] = Field([Features(name="encoder")], min_length=1)
    arms: Literal["distances", "all"] = "distances"
    segmentation: Literal["atlas", "synthseg"] = "atlas"
    n_pairs: Count = 24
    n_anatomy: Count = 24
    n_boot: int = Field(200, ge=2)


class Measured(Section):
    metric: str
    features: str = ""


class Similarity(Measured):
    goal: Literal["higher", "real"] = "higher"


class Questions(Section):
    distance: Measured = Measured(metric="frechet", features="encoder-512")
    similarity: Similarity = Similarity(metric="pair_ms_ssim", goal="real")
    margin: Positive = 0.1
    quoted: str | None = None


class Scale(Section):
    scans: Count = 60_000
    trainings: Count = 1
    steps: Count = 60_000
    samples: Count = 2_000
    workers: list[Count] = Field([1, 64], min_length=1)


class Gate(Section):
    bounds: dict[str, float]
    informational: list[str] = []

    @model_validator(mode="after")
    def known(self) -> "Gate":
        if unknown := set(self.informational) - set(self.bounds):
            raise ValueError(f"gates.informational names {sorted(unknown)}, which gates.bounds does not know")
        return self
