"""Presets of the atlas's ensemble and hierarchical model (studies/atlas/{ensemble,hvae}.yaml)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError, model_validator

from neuromf.config.atlas_model import AtlasOptimiser, merged
from neuromf.config.types import Count, Fraction, NotNegative, Section, Seed, key


class EnsembleModel(Section):
    """Section `model` of the ensemble: sizes of the decoder of mean and log-variance."""

    decoder_width: int = key("Channels of the decoder's last stage.", 8, ge=4, multiple_of=4)
    decoder_depth: Count = key("x2 stages of the decoder.", 1)
    decoder_stride: Literal[1, 2] = key("Voxels between computed values; 2: every second, interpolated linearly.", 2)


class EnsembleTrain(AtlasOptimiser):
    """Section `train` of the ensemble."""

    batch: Count = key("Studies per step.", 32)
    warmup: int = key("Steps of linear warm-up.", 20, ge=0)
    drop_metadata: Fraction = key("Fraction of rows that are trained without metadata.", 0.1)
    log_every: Count = key("Steps per row of the history, which records the learning rate.", 10)
    checkpoint_every: Count = key("Steps between two checkpoints.", 100)
    seed: Seed = key("Seed of weights, batches and noise.", 0)


class EnsemblePreset(Section):
    """An ensemble of decoders on the latent of the volume model."""

    k: int = key("Members.", 5, ge=2)
    model: EnsembleModel = key("Network of a member.", EnsembleModel())
    train: EnsembleTrain = key("Optimisation; steps are those of all members together.")


class HierarchyModel(Section):
    """Section `model` of the hierarchical VAE."""

    z1_dim: Count = key("Latent dimensions of the lower level.", 24)
    z2_dim: Count = key("Latent dimensions of the top level.", 8)
    hidden: int = key("Width of the layers.", 256, ge=8, multiple_of=2)
    skip_dim: int = key("Width of the detached skip from encoder to decoder; 0: none.", 4, ge=0)


class HierarchyLoss(Section):
    """Section `loss` of the hierarchical VAE."""

    beta_1: NotNegative = key("Weight of KL(q(z1 | x) || p(z1 | z2)).", 0.15)
    beta_2: NotNegative = key("Weight of KL(q(z2 | z1) || N(0, I)).", 0.15)
    ramp_1: tuple[Fraction, Fraction] = key(
        "Start and end of the rise of beta_1, fractions of the training.", (0.2, 0.5)
    )
    ramp_2: tuple[Fraction, Fraction] = key("Start and end of the rise of beta_2: the top level first.", (0.0, 0.2))
    keep_skip: Fraction = key("Fraction of rows whose skip is used.", 0.5)
    drop_metadata: Fraction = key("Fraction of rows that are trained without metadata.", 0.3)

    @model_validator(mode="after")
    def check_ramps(self) -> "HierarchyLoss":
        for name, (start, end) in (("ramp_1", self.ramp_1), ("ramp_2", self.ramp_2)):
            if start > end:
                raise ValueError(f"{name} must not end before it starts; got {[start, end]}")
        return self


class HierarchyTrain(AtlasOptimiser):
    """Section `train` of the hierarchical VAE."""

    batch: Count = key("Studies per step.", 128)
    warmup: int = key("Steps of linear warm-up.", 50, ge=0)
    log_every: Count = key("Steps per row of the history.", 50)
    checkpoint_every: Count = key("Steps between two checkpoints.", 500)
    seed: Seed = key("Seed of weights, batches and noise.", 0)


class HierarchyPreset(Section):
    """The hierarchical VAE on principal components of maps, and its flat comparator."""

    features: Count = key("Principal components of the maps.", 128)
    model: HierarchyModel = key("Network.", HierarchyModel())
    loss: HierarchyLoss = key("Loss.", HierarchyLoss())
    train: HierarchyTrain = key("Optimisation.")


def read_ensemble_preset(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments of `neuromf.atlas.ensemble_training.train_ensemble` from a preset file."""
    return _read(EnsemblePreset, path, overrides)


def read_hierarchy_preset(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments of `neuromf.atlas.hierarchical_training.train_hierarchical` from a preset file."""
    return _read(HierarchyPreset, path, overrides)


def _read(preset: type[Section], path: str | Path, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of a preset file with nested overrides.

    Raises:
        SystemExit: With one line for each wrong key: its name, what is allowed and what was found.
    """
    from neuromf.config.study import explain

    try:
        values = merged(yaml.safe_load(Path(path).read_text(encoding="utf-8")), overrides or {})
        return preset.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        lines = [explain(row, preset) for row in error.errors()]
        raise SystemExit("\n".join([f"preset {path} refused, nothing was run:", *lines])) from None
