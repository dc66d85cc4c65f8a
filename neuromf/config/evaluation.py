"""Blocks `evaluation`, `gates` and `projection`: features, metrics, bounds of gates, and cost projections."""

from typing import Literal

from pydantic import model_validator

from neuromf.config.types import Count, Digest, Section, key


class Features(Section):
    name: Literal["encoder", "autoencoder", "deepbet", "radimagenet"] = key(
        "encoder: blocks of an encoder that is the same in every study; autoencoder: those of the study's own encoder; "
        "deepbet: network of the package deepbet, independent of neuromf "
        "(pip install 'neuromf[features]'); radimagenet: ResNet50."
    )
    weights: str | None = key("Path of the weights of radimagenet.", None, path=True)
    sha256: Digest | None = key("Expected SHA-256 of that file; null: not verified.", None)
    n: Count | None = key("Number of features; null: that of the network.", None)

    @model_validator(mode="after")
    def check_weights(self) -> "Features":
        if (self.name == "radimagenet") != bool(self.weights):
            raise ValueError(f"features {self.name}: weights are a path for radimagenet, and none for the other sets")
        return self


class Evaluation(Section):
    features: list[Features] = key("Feature sets of distances; the first is that of gates and figures.", min_length=1)
    arms: Literal["distances", "all"] = key("Metrics of ablation arms: distances and diversity, or all.")
    segmentation: Literal["atlas", "synthseg"] = key(
        "Segmentation of regional volumes: atlas, or mri_synthseg where FreeSurfer 7.3 is installed."
    )
    n_pairs: Count = key("Pairs of volumes for the diversity of a set.")
    n_anatomy: Count = key("Volumes of a set that are segmented.")
    n_boot: int = key("Bootstrap resamples of an interval.", ge=2)
    two_sample: bool = key(
        "Classifier two-sample tests of each set against test scans, and against autoencoded ones (c2st_*).", False
    )


class Gates(Section):
    informational: list[str] = key("Ids of critical criteria that this study reports without blocking.")
    bounds: dict[str, float] = key("Bounds by id, in place of those of neuromf/config/criteria.yaml.")


class Projection(Section):
    scans: Count = key("Scans of the projected study.", 60_000)
    trainings: Count = key("Trainings of the projected study.", 1)
    steps: Count = key("Steps of each training.", 60_000)
    samples: Count = key("Volumes per number of network evaluations.", 2_000)
    workers: list[Count] = key("Numbers of parallel jobs.", [1, 64], min_length=1)
