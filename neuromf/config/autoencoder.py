"""Blocks `autoencoder` and `latents`: the frozen MAISI autoencoder, and what is encoded with it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Digest, NotNegative, Positive, Section, key


class Licence(Section):
    name: str = key("Name of the licence.")
    address: str = key("Address of its text.")
    forbids: str = key("What it forbids, in a few words.")


class Autoencoder(Section):
    architecture: Literal["compact", "published"] = key(
        "compact: 0.7 M parameters behind a space-to-depth; published: MAISI's 20.9 M parameters."
    )
    weights: str | None = key(
        "packaged: the weights inside neuromf (made by studies/compact_vae.yaml); a path; null: random weights.",
        path=True,
    )
    steps: int = key("Training steps on the training participants, starting from `weights`; 0: no training.", ge=0)
    batch: Count = key("Volumes per training step.", 2)
    lr: Positive = key("Peak learning rate.", 2e-3)
    kl_weight: NotNegative = key("Weight of the KL term per element; a large weight makes the posterior noisy.", 1e-5)
    equivariance_weight: NotNegative = key(
        "Weight of the loss of decoded flipped or resized latents to volumes changed alike; 0: no such loss.", 0.0
    )
    contrast_weight: NotNegative = key(
        "Weight of the loss of local contrast, for sharper reconstructions; 0: no such loss.", 0.0
    )
    trained: Literal["all", "decoder"] = key("decoder: the encoder, and so all latents, stay as they are.", "all")
    precision: Literal["32-true", "bf16-mixed"] = key("Precision of training.", "bf16-mixed")
    num_splits: Count = key("Pieces in which convolutions are computed, to save memory at 256^3 and beyond.", 1)
    sha256: Digest | None = key("Expected SHA-256 of the weights file; null: not verified.", None)
    url: str | None = key("Address from which the rule maisi downloads the weights.", None)
    licence: Licence | None = key("Licence shown before the download.", None)

    @model_validator(mode="after")
    def check_steps(self) -> "Autoencoder":
        if self.weights is None and self.steps == 0:
            raise ValueError("autoencoder.weights is null, so autoencoder.steps must be above 0; got 0")
        return self

    @model_validator(mode="after")
    def check_licence(self) -> "Autoencoder":
        if self.url and (self.licence is None or self.weights in (None, "packaged")):
            raise ValueError(
                "autoencoder.url needs autoencoder.licence, shown before the download, and a path in "
                "autoencoder.weights"
            )
        return self


class Latents(Section):
    mirror: bool = key("Also encode training scans mirrored left-right: twice the training latents.")
    n_augmented: int = key(
        "Augmented versions of each training scan (pose, size, brightness), encoded as images.", ge=0
    )
    augmentation: dict[
        Literal["rotation_deg", "scale", "shift_mm", "gamma", "intensity"], Annotated[float, Field(ge=0)]
    ] = key("Largest changes by name, in place of AMOUNTS in neuromf/data/augmentation.py.", {})
    precision: Literal["float32", "bf16"] = key(
        "Precision of encoding; bf16 is about twice as fast, with an error of 0.5 % of a standard deviation."
    )
    n_validated: Count = key("Test volumes that are reconstructed for the gates of phases 0 and 1.", 8)
