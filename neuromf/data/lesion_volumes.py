"""Real volumes of target lesions over time: the table of Laleh et al. 2022 (CC BY 4.0), solid tumours, not brain.

T_days is the time. T_weeks writes 0.1 for every day before the start of treatment, and is not read. Volumes are
0.52 d^3 of the lesion's diameter d. A volume of 0 is a complete response: it has no place on a growth curve, so these
rows are listed apart.

References:
    Classical mathematical models for prediction of response to chemotherapy (Laleh et al., 2022), PLOS Comput Biol
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DAYS = 365.25 / 12  # per month
FEWEST = 3  # positive volumes on distinct days


def read_lesion_volumes(path: str | Path) -> tuple["pd.DataFrame", dict[str, int]]:
    """Trajectories of patients with at least three positive volumes on distinct days, and counts of what is left out.

    Returns:
        Table with patient_id, scan_id, t_months (from the first positive volume), V_mm3 and y; of two readings on one
        day the first. Counts: patients, readings, zero_volumes, repeated_days, excluded_patients.

    Raises:
        ValueError: If a column is missing.
    """
    import pandas as pd

    table = pd.read_csv(path)
    if absent := [name for name in ("Pt_hashID", "T_days", "Lesion_vol") if name not in table]:
        raise ValueError(f"{Path(path).name} lacks the columns {', '.join(absent)}; got {', '.join(table.columns)}")
    positive = table[table["Lesion_vol"] > 0].sort_values(["Pt_hashID", "T_days"], kind="stable")
    distinct = positive.drop_duplicates(["Pt_hashID", "T_days"])
    days = distinct.groupby("Pt_hashID")["T_days"]
    kept = distinct[days.transform("size") >= FEWEST]
    first, number = days.transform("min")[kept.index], kept.groupby("Pt_hashID").cumcount()
    volumes = kept["Lesion_vol"].to_numpy(float)
    found = pd.DataFrame({
        "patient_id": kept["Pt_hashID"], "scan_id": kept["Pt_hashID"] + "-" + number.astype(str),
        "t_months": (kept["T_days"] - first) / DAYS, "V_mm3": volumes, "y": np.log1p(volumes),
    })  # fmt: skip
    counts = {
        "patients": int(found["patient_id"].nunique()),
        "readings": len(found),
        "zero_volumes": int((table["Lesion_vol"] == 0).sum()),
        "repeated_days": len(positive) - len(distinct),
        "excluded_patients": int(table["Pt_hashID"].nunique() - found["patient_id"].nunique()),
    }
    return found.reset_index(drop=True), counts
