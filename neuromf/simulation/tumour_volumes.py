"""The simulated cohort without images: dated volumes of the same patients, and their truth."""

import numpy as np
import pandas as pd
import torch

from neuromf.core.seeds import generator
from neuromf.simulation.growth_curves import CURVES, log_volume
from neuromf.simulation.tumours import VOLUME_NOISE, draw_patient


def simulate_volumes(n_patients: int, *, seed: int, growth_model: str = "gompertz") -> pd.DataFrame:
    """One row per visit of patients 0 to n - 1, as `neuromf.simulation.tumour_cohort.simulate_cohort` has them.

    Arguments:
        growth_model: "gompertz", "logistic" or "treated".

    Returns:
        Columns of `neuromf.data.trajectories` and truth: V_true_mm3, a_per_month, K_mm3, V0_mm3.
    """
    rows = []
    for number in range(n_patients):
        patient = draw_patient(number, seed, growth_model)
        noise = torch.randn(len(patient.t_months), generator=generator("tumour volume", seed, number)).numpy()
        volumes = CURVES[growth_model](patient.t_months, patient.growth)
        measured = np.maximum(np.expm1(log_volume(volumes) + VOLUME_NOISE * noise), 0)
        for visit, (t, true, volume) in enumerate(zip(patient.t_months, volumes, measured, strict=True)):
            name = f"SIM{number:04d}"
            rows.append({
                "patient_id": name, "scan_id": f"{name}-{visit:03d}", "t_months": t, "V_mm3": float(volume),
                "y": float(log_volume(volume)), "sigma_v": VOLUME_NOISE, "age": patient.age, "sex": patient.sex,
                "V_true_mm3": float(true), "a_per_month": patient.growth.rate, "K_mm3": patient.growth.capacity_mm3,
                "V0_mm3": patient.growth.initial_mm3,
            })  # fmt: skip
    return pd.DataFrame(rows)
