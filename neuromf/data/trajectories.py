"""Trajectory tables: one row per dated scan of a patient, with real time in months and the volume of the tumour.

Columns: patient_id, scan_id, t_months (from the first scan), V_mm3, y = ln(V + 1 mm^3); where known: sigma_v (standard
deviation of y by measurement), age, sex, device, anatomy. A visit index is no time: fits to it mean nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ["patient_id", "scan_id", "t_months", "V_mm3"]
COLUMNS = [*REQUIRED, "y", "sigma_v", "age", "sex", "device"]


def read_trajectories(path: str | Path, *, time: str = "months") -> "pd.DataFrame":
    """A trajectory table, sorted by patient and time, with y = ln(V + 1).

    Arguments:
        path: Tab-separated table, or Parquet if a reader of it is installed.
        time: "months"; or "ordinal" to accept a visit index as time.

    Raises:
        ValueError: If columns are missing, a volume is negative, time does not increase within a patient, or time is a
            visit index and `time` is "months".
    """
    import pandas as pd

    if time not in ("months", "ordinal"):
        raise ValueError(f"time must be months or ordinal; got {time!r}")
    path = Path(path)
    table = (
        pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep="\t", dtype={"patient_id": str})
    )
    if absent := [name for name in REQUIRED if name not in table]:
        raise ValueError(f"{path.name} lacks the columns {', '.join(absent)}; got {', '.join(table.columns)}")
    check_volumes(table, path.name)
    check_time(table, path.name, time)
    table["y"] = np.log1p(table["V_mm3"].to_numpy(float))
    return table.sort_values(["patient_id", "t_months"], kind="stable").reset_index(drop=True)


def check_volumes(table: "pd.DataFrame", name: str) -> None:
    """Raise ValueError if a volume is negative or not finite."""
    volumes = table["V_mm3"].to_numpy(float)
    if (bad := ~(np.isfinite(volumes) & (volumes >= 0))).any():
        raise ValueError(
            f"V_mm3 of {name} must be 0 or more; {table.loc[bad, 'scan_id'].iloc[0]} has {volumes[bad][0]}"
        )


def check_time(table: "pd.DataFrame", name: str, time: str) -> None:
    """Raise ValueError if time does not increase in the rows of a patient, or is a visit index but should be months."""
    by_patient = table.groupby("patient_id")["t_months"]
    if (bad := ~(by_patient.diff().fillna(1.0) > 0) | table["t_months"].isna()).any():
        patient = table.loc[bad, "patient_id"].iloc[0]
        raise ValueError(f"t_months of {name} must increase from visit to visit; it does not for patient {patient}")
    index = table["t_months"] - by_patient.transform("min")
    ordinal = (index == by_patient.cumcount()).all() and (by_patient.transform("size") > 1).any()
    if ordinal and time == "months":
        raise ValueError(
            f"t_months of {name} is 0, 1, 2, ... for every patient: a visit index, not time; give months from "
            "the first scan, or set time: ordinal"
        )
