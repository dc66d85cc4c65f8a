"""Volume of a tumour over time in closed form: Gompertz, logistic, and growth interrupted by treatment.

Volumes are in mm^3, times in months, rates per month. Curves act on V + 1 mm^3, so that V = 0 stays defined; with
y = ln(V + 1) and k = ln(K + 1) Gompertz growth is linear: dy/dt = a (k - y), y(t) = k + (y0 - k) exp(-a t).

References:
    Population modeling of tumor growth curves and the reduced Gompertz model (Vaghi et al., 2020), PLOS Comput Biol
    Classical mathematical models for prediction of response to chemotherapy (Laleh et al., 2022), PLOS Comput Biol
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MONTHS = 12.0  # per year


@dataclass(frozen=True)
class Growth:
    """Growth of one tumour."""

    initial_mm3: float  # V at t = 0
    capacity_mm3: float  # K, the volume that growth approaches
    rate: float  # a of Gompertz growth, per month
    treatment_start: float = float("inf")  # months
    treatment_months: float = 0.0
    treatment_decay: float = 0.0  # decrease of y per month under treatment


def log_volume(volume_mm3: ArrayLike) -> NDArray:
    """y = ln(V + 1 mm^3) of volumes in mm^3, any shape."""
    return np.log1p(np.asarray(volume_mm3, float))


def gompertz(t: ArrayLike, growth: Growth) -> NDArray:
    """Volume in mm^3 at times `t` (months, any shape): y(t) = k + (y0 - k) exp(-a t)."""
    y0, k = log_volume(growth.initial_mm3), log_volume(growth.capacity_mm3)
    return np.expm1(k + (y0 - k) * np.exp(-growth.rate * np.asarray(t, float)))


def logistic(t: ArrayLike, growth: Growth) -> NDArray:
    """Logistic growth with the same initial relative growth rate as Gompertz growth; as `gompertz`."""
    start, capacity = growth.initial_mm3 + 1, growth.capacity_mm3 + 1
    rate = growth.rate * np.log(capacity / start) / (1 - start / capacity)
    return capacity / (1 + (capacity / start - 1) * np.exp(-rate * np.asarray(t, float))) - 1


def treated(t: ArrayLike, growth: Growth) -> NDArray:
    """Gompertz growth whose y falls linearly under treatment and then follows Gompertz growth again; as `gompertz`."""
    t = np.asarray(t, float)
    begin, end = growth.treatment_start, growth.treatment_start + growth.treatment_months
    during = log_volume(gompertz(np.minimum(t, begin), growth))
    during = np.maximum(during - growth.treatment_decay * np.clip(t - begin, 0, growth.treatment_months), 0)
    k = log_volume(growth.capacity_mm3)
    return np.expm1(k + (during - k) * np.exp(-growth.rate * np.clip(t - end, 0, None)))


CURVES: dict[str, Callable[[ArrayLike, Growth], NDArray]] = {
    "gompertz": gompertz,
    "logistic": logistic,
    "treated": treated,
}
