"""Risk of growth: the rate of a patient among all patients, and the probability that the volume doubles."""

from collections.abc import Sequence

import numpy as np
import torch

from neuromf.growth.gompertz import GompertzMixedEffects
from neuromf.growth.protocols import Trajectory

MONTHS, FACTOR = 60.0, 2.0


def stratify(model: GompertzMixedEffects, patients: Sequence[Trajectory]) -> dict[str, dict[str, float]]:
    """Risk and doubling probability by patient, from all visits of the patient.

    risk is (a - mean a) / sd a over the patients, with the posterior mean of a; p_double is the posterior probability
    that V + 1 mm^3 exceeds twice its baseline 60 months after the first visit.
    """
    posterior = model.posterior(patients)
    rate = (posterior.weights * posterior.log_rate.exp()).sum(1).numpy()
    scores = (rate - rate.mean()) / max(rate.std(), 1e-12)
    # y(60) - y0 = (1 - exp(-60 a)) (k - y0), Gaussian at each node
    shrink = 1 - torch.exp(-MONTHS * posterior.log_rate.exp())
    contrast = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    mean = shrink * (posterior.mean @ contrast)
    sd = shrink * (posterior.covariance @ contrast @ contrast).clamp(min=1e-12).sqrt()
    above = torch.special.ndtr((mean - np.log(FACTOR)) / sd.clamp(min=1e-12))
    double = (posterior.weights * above).sum(1).clamp(max=1.0).numpy()
    return {p.patient: {"risk": float(s), "rate": float(a), "p_double": float(d)}
            for p, s, a, d in zip(patients, scores, rate, double, strict=True)}  # fmt: skip
