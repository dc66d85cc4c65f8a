"""Linear probes: how well the posterior mean predicts volume and location of a tumour."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromf.data.multimodal import MASS
from neuromf.metrics.disentanglement import FOLDS, cross_validated_r2, probe_r2


def volume_and_centroid(seg: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """ln(V_mass + 1) in mm^3 and the centroid of the whole tumour as a fraction of the sides; NaN without a tumour.

    Arguments:
        seg: BraTS labels, shape (B, 1, I, J, K).
        spacing_mm: Voxel size.

    Returns:
        Targets, shape (B, 4), float32.
    """
    voxel = float(np.prod(spacing_mm))
    mass = sum((seg == label).flatten(1).sum(1) for label in MASS) * voxel
    whole = (seg[:, 0] > 0).float()
    total = whole.flatten(1).sum(1)
    columns = [torch.log1p(torch.as_tensor(mass).float())]
    for axis, n in enumerate(seg.shape[2:], start=1):
        profile = whole.sum([other for other in (1, 2, 3) if other != axis])
        columns.append((profile @ (torch.arange(n).to(profile) + 0.5)) / total / n)
    return torch.where(total[:, None] > 0, torch.stack(columns, 1), torch.nan)


def probe(mu: NDArray, targets: NDArray, test_mu: NDArray, test_targets: NDArray) -> tuple[float, float]:
    """R^2 of ln V and mean R^2 of the centroid of ridge regressions on test subjects; mu (N, d), targets (N, 4)."""
    known, test = np.isfinite(targets).all(1), np.isfinite(test_targets).all(1)
    if known.sum() < FOLDS or test.sum() < 2:
        return float("nan"), float("nan")
    scores = probe_r2(mu[known], targets[known], test_mu[test], test_targets[test])
    return float(scores[0]), float(scores[1:].mean())


def cross_probe(mu: NDArray, targets: NDArray, patients: Sequence[str]) -> tuple[float, float]:
    """R^2 as in `probe`, of 5-fold cross-validation by patient; NaN for fewer than 5 patients."""
    known = np.isfinite(targets).all(1)
    scores = cross_validated_r2(mu[known], targets[known], np.asarray(patients)[known])
    return float(scores[0]), float(scores[1:].mean())
