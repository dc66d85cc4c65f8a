"""Forward pairs of visits of one patient: state at a visit, months to a later visit, state there."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class ForwardPairs(Dataset):
    """All pairs (i, j) of visits of one patient with t_i < t_j: n (n - 1) / 2 of a patient with n visits.

    Arguments:
        z: States of visits, shape (N, d).
        t: Months from the first visit of the patient, shape (N,).
        patients: Patient of each visit, shape (N,).

    Raises:
        ValueError: If two visits of a patient have the same time, or time is a visit index: 0, 1, 2, ... for every
            patient.
    """

    def __init__(self, z: NDArray, t: NDArray, patients: Sequence[str] | NDArray) -> None:
        self.z, self.t = np.asarray(z, float), np.asarray(t, float)
        self.patients = np.asarray(patients)
        found: list[tuple[int, int]] = []
        gaps: set[float] = set()
        for patient in np.unique(self.patients):
            rows = np.flatnonzero(self.patients == patient)
            rows = rows[np.argsort(self.t[rows], kind="stable")]
            if (np.diff(self.t[rows]) <= 0).any():
                raise ValueError(f"two visits of patient {patient} have the same time: {self.t[rows].tolist()}")
            gaps |= set(np.diff(self.t[rows]).tolist())
            found += combinations(rows.tolist(), 2)
        if len(found) > 1 and gaps == {1.0}:
            raise ValueError("visits of every patient are 1 apart: a visit index, not time; give months")
        self.index = np.array(found, dtype=int).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        """start (d,), end (d,), months from start to end, and t, months of the start; float64."""
        return {name: values[k] for name, values in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """All pairs at once, as `__getitem__` with a first axis of pairs."""
        i, j = self.index.T
        values = {"start": self.z[i], "end": self.z[j], "months": self.t[j] - self.t[i], "t": self.t[i]}
        return {name: torch.from_numpy(value) for name, value in values.items()}
