"""Simple models of log-volume that every other model must beat: population mean, LOCF, line.

A comparator is fitted on trajectories of training patients; then it forecasts cases, mean and standard deviation of y.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuromf.growth.protocols import Case, Trajectory, last_from_rest

SMALLEST_SD = 1e-6


class Comparator(ABC):
    """A model of the ladder; `patients` are those that it was fitted on."""

    name: str
    title: str
    patients: frozenset[str] = frozenset()

    def fit(self, patients: Sequence[Trajectory]) -> "Comparator":
        """Estimate all parameters from training patients."""
        self.patients = frozenset(p.patient for p in patients)
        self.estimate(patients)
        return self

    @abstractmethod
    def estimate(self, patients: Sequence[Trajectory]) -> None: ...

    @abstractmethod
    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        """Mean and standard deviation of y of cases, each (N,)."""


class PopulationMean(Comparator):
    """Mean and standard deviation of all training visits."""

    name, title = "M0", "mean"

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        y = np.concatenate([p.y for p in patients])
        self.mean, self.sd = float(y.mean()), float(y.std(ddof=1))

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        return np.full(len(cases), self.mean), np.full(len(cases), self.sd)


class PatientRule(Comparator):
    """A rule that reads one patient alone; its standard deviation is its RMS error on training patients.

    The rule has no parameter, so errors on training patients are as large as on others.
    """

    def estimate(self, patients: Sequence[Trajectory]) -> None:
        cases = last_from_rest(patients)
        errors = [case.actual - self.rule(case) for case in cases]
        self.sd = max(float(np.sqrt(np.mean(np.square(errors)))), SMALLEST_SD)

    @abstractmethod
    def rule(self, case: Case) -> float: ...

    def predict(self, cases: Sequence[Case]) -> tuple[NDArray, NDArray]:
        return np.array([self.rule(case) for case in cases]), np.full(len(cases), self.sd)


class LastObservation(PatientRule):
    """Last observation carried forward."""

    name, title = "M1", "LOCF"

    def rule(self, case: Case) -> float:
        return float(case.past.y[-1])


class PatientLine(PatientRule):
    """Least-squares line of the patient from two visits on, else LOCF."""

    name, title = "M2", "line"

    def rule(self, case: Case) -> float:
        t, y = case.past.t, case.past.y
        if len(t) < 2:
            return float(y[-1])
        slope = ((t - t.mean()) * (y - y.mean())).sum() / ((t - t.mean()) ** 2).sum()
        return float(y.mean() + slope * (case.t - t.mean()))
