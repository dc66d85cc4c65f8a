"""Adversaries that read metadata off the latent through a reversed gradient, and the audit of what remains.

The weight is 0 for the first fifth of a training and rises linearly to its final value at four fifths (epochs 20 and 80
of a run of 100). An adversary that fails may be weak, so the audit trains a new probe and compares its score with
probes on permuted targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromf.nn.gradient_reversal import reverse_gradient
from neuromf.vae.schedules import Schedule, linear

RAMP = (0.2, 0.8)  # fractions of the training
HIDDEN = 64
KINDS = ("continuous", "bins", "categorical")


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


class Leakage(NamedTuple):
    """Score of a probe, the 95th percentile of its permutation null, and whether the score exceeds it."""

    score: float
    null_95: float
    leaks: bool


def audit_leakage(
    z: NDArray, target: NDArray, *, kind: str = "continuous", n_permutations: int = 20, seed: int = 0
) -> Leakage:
    """Leakage of a field into latents: a new MLP probe against probes on permuted targets.

    Arguments:
        z: Latents, shape (N, d).
        target: Field, shape (N,): numbers ("continuous"; score R^2) or classes ("categorical"; balanced accuracy).
        n_permutations: Permutations of the null.
    """
    random = np.random.default_rng([seed, 15])
    order = random.permutation(len(z))
    train, test = order[: 2 * len(z) // 3], order[2 * len(z) // 3 :]
    score = _probe(z, target, train, test, kind, seed)
    null = [_probe(z, random.permutation(target), train, test, kind, seed) for _ in range(n_permutations)]
    bound = float(np.percentile(null, 95))
    return Leakage(score, bound, score > bound)


def _probe(z: NDArray, target: NDArray, train: NDArray, test: NDArray, kind: str, seed: int) -> float:
    """Test score of an MLP with 32 hidden units and early stopping."""
    from sklearn.metrics import balanced_accuracy_score, r2_score
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net = MLPRegressor if kind == "continuous" else MLPClassifier
    options = {"hidden_layer_sizes": (32,), "early_stopping": True, "random_state": seed, "max_iter": 100}
    probe = make_pipeline(StandardScaler(), net(**options)).fit(z[train], target[train])
    score = r2_score if kind == "continuous" else balanced_accuracy_score
    return float(score(target[test], probe.predict(z[test])))
