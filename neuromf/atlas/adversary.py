"""Adversaries that read metadata off the latent through a reversed gradient.

The weight is 0 for the first fifth of a training and rises linearly to its final value at four fifths (epochs 20 and 80
of a run of 100). An adversary that fails may be weak: what remains in the latent is read by new probes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromf.atlas.metadata import Schema
from neuromf.nn.gradient_reversal import reverse_gradient
from neuromf.vae.schedules import Schedule, linear

RAMP = (0.2, 0.8)  # fractions of the training
HIDDEN = 64


class Target(NamedTuple):
    """Field that an adversary predicts, in columns start to stop of m.

    kind: "continuous" (squared error), "bins" (cross-entropy over the classes that `edges` separate) or "categorical".
    """

    field: str
    kind: str
    start: int
    stop: int
    edges: tuple[float, ...] = ()


def adversary_ramp(strength: float, n_epochs: float) -> Schedule:
    """Weight of the reversed gradient by epoch."""
    start, end = (fraction * n_epochs for fraction in RAMP)
    return linear(strength, end - start, start)


class Adversary(nn.Module):
    """One head Linear-ReLU-Linear per target on z (B, d)."""

    def __init__(self, z_dim: int, targets: Sequence[Target]) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(z_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_outputs(target)))
            for target in self.targets
        )

    def loss(self, z: Tensor, m: Tensor, observed: Tensor, strength: float) -> Tensor:
        """Mean loss of all heads on observed targets; the gradient that reaches z is times -`strength`."""
        total = z.new_zeros(())
        reversed_z = reverse_gradient(z, strength)
        for target, head in zip(self.targets, self.heads, strict=True):
            known = observed[:, target.start]
            total = total + (target_loss(target, head(reversed_z).float(), m) * known).sum() / known.sum().clamp(min=1)
        return total / max(1, len(self.targets))


def n_outputs(target: Target) -> int:
    """Outputs of a head."""
    return len(target.edges) + 1 if target.kind == "bins" else target.stop - target.start


def target_loss(target: Target, prediction: Tensor, m: Tensor) -> Tensor:
    """Loss per row, (B,)."""
    values = m.nan_to_num()[:, target.start : target.stop]
    if target.kind == "continuous":
        return (prediction - values).square().sum(1)
    if target.kind == "bins":
        classes = torch.bucketize(values[:, 0].contiguous(), torch.tensor(target.edges).to(values))
        return F.cross_entropy(prediction, classes, reduction="none")
    return F.cross_entropy(prediction, values, reduction="none")


def targets_of(schema: Schema, fields: Sequence[str], edges: tuple[float, ...] = ()) -> list[Target]:
    """Targets of fields by name; "year_bins" is the year in classes that `edges` (z-scores) separate."""
    found = []
    for name in fields:
        where = schema.position(name.removesuffix("_bins"))
        kind = next(field.kind for field in schema.fields if field.name == name.removesuffix("_bins"))
        kind = "bins" if name.endswith("_bins") else "categorical" if kind == "categorical" else "continuous"
        found.append(Target(name, kind, where.start, where.stop, edges if kind == "bins" else ()))
    return found
