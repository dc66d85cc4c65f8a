"""States of the growth ODE from a store of latents, and latents from forecast states.

y is read out of the volume latent by least squares on training visits; location, shape and residual are the latents
themselves. The inverse moves the volume latent along the read-out, so a decoder can draw the forecast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuromf.growth.latents import Scans, visits_by_patient
from neuromf.growth.neural_ode import StateWidths
from neuromf.growth.protocols import Trajectory

PARTS = ("loc", "shape", "residual")


@dataclass(frozen=True)
class StateReadout:
    """Between latents z (n, d) and states [y, location, shape, residual].

    Arguments:
        partition: Slices of the latent by name: vol, loc, shape, residual; loc and shape may be missing.
        weights, offset: y = z_vol @ weights + offset.
    """

    partition: Mapping[str, slice]
    weights: NDArray
    offset: float

    @property
    def widths(self) -> StateWidths:
        """Widths of the parts of a state."""
        return StateWidths(**{name: span.stop - span.start for name, span in self.others.items()})

    @property
    def others(self) -> dict[str, slice]:
        """Slices of the parts of a state behind y."""
        return {name: self.partition[name] for name in PARTS if name in self.partition}

    def states(self, z: NDArray) -> NDArray:
        """States (n, 1 + ...) of latents (n, d)."""
        y = z[:, self.partition["vol"]] @ self.weights + self.offset
        return np.column_stack([y, *(z[:, span] for span in self.others.values())])

    def latents(self, states: NDArray, last: NDArray) -> NDArray:
        """Latents (n, d) of states, with the volume latent moved from that of the last visit `last` (n, d)."""
        z, start = last.copy(), 1
        change = states[:, 0] - self.states(last)[:, 0]
        z[:, self.partition["vol"]] += np.outer(change, self.weights) / (self.weights @ self.weights)
        for span in self.others.values():
            width = span.stop - span.start
            z[:, span], start = states[:, start : start + width], start + width
        return z


def fit_readout(z: NDArray, y: NDArray, partition: Mapping[str, slice]) -> StateReadout:
    """Read-out of y from the volume latent of training visits, z (n, d) and y (n,)."""
    volume = z[:, partition["vol"]]
    solution, *_ = np.linalg.lstsq(np.column_stack([volume, np.ones(len(z))]), y, rcond=None)
    return StateReadout(partition, solution[:-1], float(solution[-1]))


def latent_trajectories(
    scans: Scans, partition: Mapping[str, slice], volumes: Mapping[str, float], *, test_split: str = "test"
) -> tuple[list[Trajectory], list[Trajectory], StateReadout]:
    """Training and test patients with states, and the read-out that training visits give.

    Arguments:
        scans: Groups of a store (see `neuromf.growth.latents`): mu, patient, split and t_months by scan id.
        partition: Slices of the latent by name.
        volumes: Measured y by scan id.
        test_split: Split of the test patients; all others train.
    """
    dated = {name: scan for name, scan in scans.items() if "t_months" in scan and name in volumes}
    known = [name for name, scan in dated.items() if scan["split"] != test_split]
    mu = np.stack([dated[name]["mu"] for name in known]).astype(float)
    readout = fit_readout(mu, np.array([volumes[name] for name in known]), partition)
    train: list[Trajectory] = []
    test: list[Trajectory] = []
    for patient, names in sorted(visits_by_patient(dated).items()):
        group = test if dated[names[0]]["split"] == test_split else train
        group.append(_trajectory(patient, names, dated, volumes, readout))
    return train, test, readout


def _trajectory(
    patient: str, names: Sequence[str], scans: Scans, volumes: Mapping[str, float], readout: StateReadout
) -> Trajectory:
    t = np.array([float(scans[name]["t_months"]) for name in names])
    states = readout.states(np.stack([scans[name]["mu"] for name in names]).astype(float))
    return Trajectory(patient, t - t[0], np.array([volumes[name] for name in names]), states=states)
