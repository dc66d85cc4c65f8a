"""Preset of the atlas's point model (studies/atlas/points.yaml): model, loss and training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from neuromf.config.atlas_model import AtlasOptimiser, merged
from neuromf.config.types import Count, Fraction, NotNegative, Positive, Section, Seed, key


class PointModel(Section):
    """Section `model`: keyword arguments of `neuromf.atlas.point_vae.PointVAE`."""

    n_points: Count = key("Points per study: fewer foci are repeated, more are dropped, at random.", 30)
    z_dim: Count = key("Latent dimensions.", 32)
    n_frequencies: Count = key("Random frequencies of the Fourier features.", 64)
    bandwidth: Positive = key("Standard deviation of the frequencies in 1/mm.", 0.01)
    centres: tuple[Count, Count] = key("Centres of both set abstractions.", (16, 4))
    radii_mm: tuple[Positive, Positive] = key("Radius of their balls in mm.", (25.0, 60.0))
    width: Count = key("Width of the global feature.", 128)
    hidden: Count = key("Width of the decoder.", 256)


class PointLoss(Section):
    """Section `loss`: Chamfer / s^2 + w_emd Sinkhorn / s + beta KL, s = 30 mm."""

    conditional: bool = key("Condition on metadata.", True)
    w_emd: NotNegative = key("Weight of the Sinkhorn divergence.", 1.0)
    beta: NotNegative = key("Weight of the KL divergence.", 0.001)
    beta_warmup: Fraction = key("Fraction of the training in which beta rises from 0.", 0.3)
    drop_metadata: Fraction = key("Fraction of rows that are trained without metadata.", 0.1)


class PointTrain(AtlasOptimiser):
    """Section `train`."""

    batch: Count = key("Studies per step.", 32)
    warmup: int = key("Steps of linear warm-up.", 50, ge=0)
    ema_sets: Positive = key("Half-life of the weight average in point sets.", 4000.0)
    log_every: Count = key("Steps per row of the history.", 50)
    checkpoint_every: Count = key("Steps between two checkpoints.", 200)
    seed: Seed = key("Seed of weights, point sets, batches and noise.", 0)


class PointPreset(Section):
    """One training of the point model. float32 always."""

    model: PointModel = key("Network.", PointModel())
    loss: PointLoss = key("Loss.", PointLoss())
    train: PointTrain = key("Optimisation.")


def read_point_preset(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments of `neuromf.atlas.point_training.train_points` from a preset file.

    Arguments:
        overrides: Nested values on top of the file.

    Raises:
        SystemExit: With one line for each wrong key: its name, what is allowed and what was found.
    """
    from neuromf.config.study import explain

    try:
        values = merged(yaml.safe_load(Path(path).read_text(encoding="utf-8")), overrides or {})
        return PointPreset.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        lines = [explain(row, PointPreset) for row in error.errors()]
        raise SystemExit("\n".join([f"preset {path} refused, nothing was run:", *lines])) from None
