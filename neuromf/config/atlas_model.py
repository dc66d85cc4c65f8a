"""Presets of the atlas's volume model (studies/atlas/*.yaml): model, loss and training of one run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from neuromf.config.types import Count, Fraction, NotNegative, Positive, Section, Seed, key


class AtlasModel(Section):
    """Section `model`: keyword arguments of `neuromf.atlas.volume_vae.VolumeVAE`."""

    z_dim: Count = key("Latent dimensions.", 32)
    recon: Literal["mse_sum", "gauss", "poisson"] = key(
        "What is decoded. mse_sum: maps; gauss: maps and variances; poisson: the intensity of foci, which starts at "
        "the mixture of topic densities.",
        "mse_sum",
    )
    backbone: Literal["resnet10", "densenet"] = key("Encoder.", "resnet10")
    width: int = key("Channels of the encoder's first stage.", 8, ge=4, multiple_of=4)
    depth: Count = key("Stages of the encoder; the receptive field must exceed 150 mm.", 4)
    decoder_width: int = key("Channels of the decoder's last stage.", 8, ge=4, multiple_of=4)
    decoder_depth: Count = key("x2 stages of the decoder.", 2)
    decoder_stride: Literal[1, 2] = key("Voxels between computed values; 2: every second, interpolated linearly.", 1)
    condition_dim: Count = key("Width of the condition vector.", 64)
    checkpointing: bool = key("Recompute activations in the backward pass: less memory, more time.", False)


class AtlasAdversary(Section):
    """Section `loss.adversary`."""

    fields: list[Literal["year", "year_bins", "space", "log_n_foci", "pet", "resting", "vbm", "connectivity"]] = key(
        "Fields that adversaries predict from the latent.", []
    )
    strength: NotNegative = key("Final weight of the reversed gradient; ramp from 20 to 80 % of the training.", 1.0)


class AtlasLoss(Section):
    """Section `loss`."""

    conditional: bool = key("Condition on metadata.", True)
    beta: NotNegative = key("First weight of the KL divergence.", 1.0)
    beta_warmup: Fraction = key("Fraction of the training in which beta rises from 0.", 0.3)
    kl_mode: Literal["constant", "corrected", "literal", "pi"] = key("Control of beta.", "corrected")
    kl_target: Positive = key("Target KL divergence in nats.", 20.0)
    imputation_weight: NotNegative = key("Weight of the imputation of missing metadata; 0: none.", 1.0)
    adversary: AtlasAdversary = key("Removal of metadata from the latent.", AtlasAdversary())
    completion: Fraction = key("Fraction of rows that observe half of their foci and predict the others.", 0.0)
    prior: Fraction = key("Fraction of the other rows whose latent is drawn from the prior.", 0.0)
    density_steps: int = key("Steps that fit the density given metadata alone, before the VAE.", 0, ge=0)
    drop_metadata: Fraction = key("Fraction of rows that are trained without metadata.", 0.1)


class AtlasOptimiser(Section):
    """Keys of the section `train` that the models of the atlas share."""

    steps: Count = key("Optimiser steps.")
    lr: Positive = key("Peak learning rate of AdamW.", 1e-3)
    betas: tuple[Fraction, Fraction] = key("Decay rates of AdamW's moments.", (0.9, 0.995))
    weight_decay: NotNegative = key("Weight decay.", 0.01)
    clip: Positive = key("Largest gradient norm.", 1.0)
    logger: Literal["csv", "wandb"] = key("wandb: an additional offline Weights & Biases run.", "csv")


class AtlasTrain(AtlasOptimiser):
    """Section `train`."""

    batch: Count = key("Studies per step.", 64)
    warmup: int = key("Steps of linear warm-up.", 20, ge=0)
    cycles: Count = key("Cosine cycles of the learning rate.", 1)
    ema_images: Positive = key("Half-life of the weight average in studies.", 2000.0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = key("Lightning precision.", "32-true")
    log_every: Count = key("Steps per row of the history.", 10)
    checkpoint_every: Count = key("Steps between two checkpoints.", 50)
    seed: Seed = key("Seed of weights, batches and noise.", 0)


class AtlasPreset(Section):
    """One training of the volume model."""

    kernels: list[Positive] = key("Kernel widths (FWHM) in mm, drawn per access.", [9.0, 12.0], min_length=1)
    combine: Literal["noisy_or", "sum", "max"] = key("How kernels combine.", "noisy_or")
    model: AtlasModel = key("Network.", AtlasModel())
    loss: AtlasLoss = key("Loss.", AtlasLoss())
    train: AtlasTrain = key("Optimisation.")


def read_atlas_preset(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments of `neuromf.atlas.train.train` from a preset file.

    Arguments:
        overrides: Nested values on top of the file.

    Raises:
        SystemExit: With one line for each wrong key: its name, what is allowed and what was found.
    """
    from neuromf.config.study import explain

    values = merged(yaml.safe_load(Path(path).read_text(encoding="utf-8")), overrides or {})
    try:
        return AtlasPreset.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        lines = [explain(row, AtlasPreset) for row in error.errors()]
        raise SystemExit("\n".join([f"preset {path} refused, nothing was run:", *lines])) from None


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with changes."""
    out = dict(values)
    for name, change in changes.items():
        out[name] = merged(out.get(name) or {}, change) if isinstance(change, Mapping) else change
    return out
