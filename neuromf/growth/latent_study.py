"""Forecast study on states from latents of images: the ladder, and forecast latents that a decoder can draw."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.data.trajectories import read_trajectories
from neuromf.growth.forecast_study import chosen_builders, write_study
from neuromf.growth.ladder import run_fold
from neuromf.growth.latent_states import Scans, latent_trajectories
from neuromf.growth.latents import read_latents
from neuromf.growth.ode_models import NeuralODE
from neuromf.growth.protocols import Trajectory, last_from_rest


def latent_study(
    *, latents: Path, trajectories: Path, out: Path, modalities: Sequence[str], models: Sequence[str],
    ode: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """Ladder on states from latents: patients of the test split, whose anatomy no training image has.

    Writes the files of `neuromf.growth.forecast_study.write_study`, and latents.npz: forecast latents z (N, d) and
    states of the last visit of every test patient by M10, with the patient.

    Arguments:
        latents: Store with a partition (see `neuromf.growth.latents`).
        trajectories: Table with measured volumes.
        modalities: Modalities in the order of channels, which the store must have.
        models: Names of `neuromf.growth.ladder.builders`.
        ode: Arguments of `neuromf.growth.ode_models.OdeSettings`.
    """
    measured = read_trajectories(trajectories).set_index("scan_id")["y"].to_dict()
    scans = read_latents(latents, modalities)
    train, test, readout = latent_trajectories(scans, read_slices(latents), measured)
    forecasts, fitted = run_fold(train, test, chosen_builders(models, readout.widths, ode))
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(model := fitted.get("M10"), NeuralODE):
        cases = last_from_rest(test)
        states, last = model.forecast(cases)[0].numpy(), np.stack([_last_latent(scans, case.past) for case in cases])
        names = np.array([case.past.patient for case in cases])
        np.savez(out / "latents.npz", patient=names, z=readout.latents(states, last), states=states)
    return write_study(out, forecasts, {"data": "latents of images", "n_train": len(train), "n_test": len(test)})


def read_slices(path: Path) -> dict[str, slice]:
    """Slices of the latent by name.

    Raises:
        ValueError: If the latents of the store have no named parts.
    """
    with np.load(path) as store:
        ranges = json.loads(str(store["provenance"])).get("partition")
    if not ranges:
        raise ValueError(f"latents of {path} have no partition; the growth ODE needs those of experiment 3")
    return {name: slice(*span) for name, span in ranges.items()}


def _last_latent(scans: Scans, past: Trajectory) -> NDArray:
    """Latent of the last observed visit of a patient."""
    own = [scan for scan in scans.values() if str(scan["patient"]) == past.patient and "t_months" in scan]
    return sorted(own, key=lambda scan: float(scan["t_months"]))[len(past.t) - 1]["mu"].astype(float)
