"""What is forecast from what: trajectories of patients, protocols that make cases of them, folds by patient.

Times are in months from the first visit, y = ln(V + 1 mm^3).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

FEW_PATIENTS, FOLDS = 60, 10
HORIZONS = {"0-1": 12.0, "1-2": 24.0, ">2": float("inf")}  # years, and their upper ends in months


@dataclass(frozen=True)
class Trajectory:
    """Dated volumes of one patient."""

    patient: str
    t: NDArray  # months, (n,), increasing
    y: NDArray  # ln(V + 1 mm^3), (n,)
    features: NDArray = field(default_factory=lambda: np.zeros(0))  # baseline covariates, (p,)
    states: NDArray | None = None  # latent states of the visits, (n, d)

    def first(self, n: int) -> "Trajectory":
        """The first n visits."""
        states = None if self.states is None else self.states[:n]
        return replace(self, t=self.t[:n], y=self.y[:n], states=states)


@dataclass(frozen=True)
class Case:
    """One forecast: y at time t from earlier visits."""

    past: Trajectory
    t: float
    actual: float

    @property
    def horizon(self) -> float:
        """Months from the last observed visit."""
        return self.t - float(self.past.t[-1])


def trajectories(table: "pd.DataFrame", features: Sequence[str] = ()) -> list[Trajectory]:
    """Trajectories of a table with patient_id, t_months and y (see `neuromf.data.trajectories`), sorted by patient.

    Arguments:
        features: Columns whose value at the first visit is a baseline covariate; sex is 1 for M, 0 otherwise.
    """
    found = []
    for patient, rows in table.sort_values(["patient_id", "t_months"]).groupby("patient_id"):
        first = rows.iloc[0]
        baseline = [float(first[name] == "M") if name == "sex" else float(first[name]) for name in features]
        t, y = rows["t_months"].to_numpy(float), rows["y"].to_numpy(float)
        found.append(Trajectory(str(patient), t - t[0], y, np.array(baseline)))
    return found


def last_from_rest(patients: Sequence[Trajectory]) -> list[Case]:
    """The last visit from all earlier ones; patients with at least two visits."""
    return [Case(p.first(len(p.t) - 1), float(p.t[-1]), float(p.y[-1])) for p in patients if len(p.t) >= 2]


def all_from_first(patients: Sequence[Trajectory]) -> list[Case]:
    """Every later visit from the first."""
    return [Case(p.first(1), float(t), float(y)) for p in patients for t, y in zip(p.t[1:], p.y[1:], strict=True)]


PROTOCOLS: dict[str, Callable[[Sequence[Trajectory]], list[Case]]] = {
    "last_from_rest": last_from_rest,
    "all_from_first": all_from_first,
}


def horizon_bin(months: float) -> str:
    """Bin of a horizon: 0-1, 1-2 or > 2 years."""
    return next(name for name, end in HORIZONS.items() if months <= end)


def folds(patients: Sequence[str], seed: int, n: int | None = None) -> list[list[str]]:
    """Patients of each fold: leave one patient out for up to 60 patients, else 10 folds, from a seeded permutation."""
    unique = sorted(set(patients))
    n = n or (len(unique) if len(unique) <= FEW_PATIENTS else FOLDS)
    order = np.random.default_rng(seed).permutation(len(unique))
    return [[unique[k] for k in order[start::n]] for start in range(n)]


def split_folds(
    patients: Sequence[Trajectory], seed: int, n: int | None = None
) -> Iterator[tuple[list[Trajectory], list[Trajectory]]]:
    """Patients without a fold, and those of the fold, for each of `folds`."""
    for fold in folds([p.patient for p in patients], seed, n):
        left_out = set(fold)
        yield [p for p in patients if p.patient not in left_out], [p for p in patients if p.patient in left_out]
