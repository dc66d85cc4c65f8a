"""Forecast study on states from latents of images: the ladder, and forecast latents that a decoder can draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuromf.core.files import atomic_write
from neuromf.data.trajectories import read_trajectories
from neuromf.growth.comparators import Comparator
from neuromf.growth.forecast_study import chosen_builders, write_study
from neuromf.growth.ladder import run_fold
from neuromf.growth.latent_states import Scans, StateReadout, latent_trajectories
from neuromf.growth.latents import named_partition, read_latents, visits_by_patient
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
    train, test, readout = latent_trajectories(scans, named_partition(latents), measured)
    forecasts, fitted = run_fold(train, test, chosen_builders(models, readout.widths, ode))
    out.mkdir(parents=True, exist_ok=True)
    write_forecast_latents(out / "latents.npz", fitted.get("M10"), test, scans, readout)
    return write_study(out, forecasts, {"data": "latents of images", "n_train": len(train), "n_test": len(test)})


def write_forecast_latents(
    path: Path, model: Comparator | None, test: Sequence[Trajectory], scans: Scans, readout: StateReadout
) -> None:
    """Write latents z (N, d) and states of the last visit of every test patient as npz; nothing without an ODE."""
    if not isinstance(model, NeuralODE):
        return
    cases = last_from_rest(test)
    visits, names = visits_by_patient(scans), np.array([case.past.patient for case in cases])
    last = np.stack([scans[visits[one][-2]]["mu"] for one in names]).astype(float)  # before the forecast visit
    states = model.forecast(cases)[0].numpy()
    with atomic_write(path) as part, open(part, "wb") as file:
        np.savez(file, patient=names, z=readout.latents(states, last), states=states)
