"""Forecasts of the volume latent: models of the ladder on ln V as experiment 3 reads it from images.

The target is the volume latent of a test patient's last visit, in units of ln V, not the measured volume. So the last
observation carried forward is the latent of the visit before, and skill is what a model adds to that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.growth.callbacks import write_table
from neuromf.growth.forecast_study import chosen_builders, write_study
from neuromf.growth.ladder import LOCF, compare, run_fold
from neuromf.growth.latent_states import Scans, latent_trajectories
from neuromf.growth.latent_study import write_forecast_latents
from neuromf.growth.latents import named_partition, read_latents
from neuromf.growth.protocols import Trajectory


def forecast_volume_latent(
    *, latents: Path, reference: Path, out: Path, table: Path, modalities: Sequence[str], models: Sequence[str],
    ode: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """Fit models on the volume latents of training patients, and forecast those of test patients.

    Writes the files of `neuromf.growth.forecast_study.write_study`, with the gain of every model over LOCF in
    study.json, and latents.npz (see `write_forecast_latents`).

    Arguments:
        latents: Store of an experiment with a partition (see `neuromf.growth.latents`).
        reference: scores.csv of the ladder on measured volumes.
        out: Folder.
        table: CSV with the skill of every model, of the volume latent and of measured volumes.
        modalities: Modalities in the order of channels, which the store must have.
        models: Names of `neuromf.growth.ladder.builders`.
        ode: Arguments of `neuromf.growth.ode_models.OdeSettings`.
    """
    scans = read_latents(latents, modalities)
    train, test, readout = latent_trajectories(scans, named_partition(latents), mask_volumes(scans))
    train, test = [volume_latent(p) for p in train], [volume_latent(p) for p in test]
    forecasts, fitted = run_fold(train, test, chosen_builders(models, readout.widths, ode))
    out.mkdir(parents=True, exist_ok=True)
    write_forecast_latents(out / "latents.npz", fitted.get("M10"), test, scans, readout)
    gains = [compare(forecasts, name, LOCF) for name in fitted if name != LOCF]
    facts = {"data": "volume latent of images", "n_train": len(train), "n_test": len(test), "over_locf": gains}
    scores = write_study(out, forecasts, facts)
    write_table(table, beside(scores, pd.read_csv(reference)))
    return scores


def mask_volumes(scans: Scans) -> dict[str, float]:
    """ln(V + 1 mm^3) of the mass in the segmentation, by scan id; scans without a mass are left out."""
    values = {name: float(scan["targets"][0]) for name, scan in scans.items()}
    return {name: y for name, y in values.items() if y > 0}


def volume_latent(patient: Trajectory) -> Trajectory:
    """The trajectory with its volume latent, the first dimension of the states, in place of y."""
    if patient.states is None:
        raise ValueError(
            f"patient {patient.patient} has no states: a volume latent needs those of `latent_trajectories`"
        )
    return replace(patient, y=patient.states[:, 0])


def beside(latent: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Skill over LOCF of the last visit by model: of the volume latent, and of measured volumes (NaN if not run)."""
    tables = [
        table[(table["protocol"] == "last_from_rest") & (table["horizon"] == "all")].set_index("model")
        for table in (latent, measured)
    ]
    own = tables[0]
    return pd.DataFrame({
        "model": own.index, "title": own["title"].to_numpy(), "n": own["n"].to_numpy(),
        "skill_latent": own["skill"].to_numpy(), "r2_latent": own["r2"].to_numpy(),
        "skill_measured": tables[1]["skill"].reindex(own.index).to_numpy(),
    })  # fmt: skip
