"""Files of the simulated longitudinal cohort: one BraTS-style folder per scan, trajectories.tsv and truth.tsv."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from neuromf.core.parallel import map_in_threads
from neuromf.data.nifti import write_labels, write_volume
from neuromf.data.participants import write_table
from neuromf.data.trajectories import COLUMNS
from neuromf.simulation.anatomies import Anatomy, Grid, load_anatomies
from neuromf.simulation.tumours import simulate_patient

logger = logging.getLogger(__name__)


def simulate_cohort(
    *,
    out: Path,
    anatomy: str,
    n_patients: int,
    n_anatomies: int,
    shape: int,
    spacing_mm: float,
    seed: int,
    growth_model: str = "gompertz",
    mass_effect: float = 0.0,
    ixi_root: str | None = None,
) -> pd.DataFrame:
    """Write {scan}/{scan}-{t1c,t1n,t2f,t2w,seg}.nii.gz of every visit, trajectories.tsv and truth.tsv.

    Patient k has anatomy k modulo the number of anatomies. trajectories.tsv holds measured volumes (see
    `neuromf.data.trajectories`), truth.tsv those of the growth curve, its parameters and the centroid of the mass.

    Arguments:
        out: Folder to write to.
        anatomy: "embedded", "ixi" or "phantom".
        n_patients, n_anatomies: Numbers of patients and of anatomies.
        shape: Voxels per axis.
        spacing_mm: Isotropic voxel size in mm.
        seed: Seed of the cohort.
        growth_model: "gompertz", "logistic" or "treated".
        mass_effect: Displacement of tissue at the border of the mass as a fraction of its radius.
        ixi_root: Folder of IXI, for anatomy "ixi".

    Returns:
        The truth, one row per scan.
    """
    grid, out = Grid(shape, spacing_mm), Path(out)
    anatomies = load_anatomies(anatomy, min(n_anatomies, n_patients), grid, seed=seed, ixi_root=ixi_root)
    logger.info("%d anatomies (%s) on %d^3 voxels of %g mm", len(anatomies), anatomy, shape, spacing_mm)
    settings: dict[str, Any] = {"seed": seed, "growth_model": growth_model, "mass_effect": mass_effect}

    def write(number: int) -> list[dict[str, Any]]:
        return _write_patient(number, anatomies[number % len(anatomies)], grid, out, settings)

    truth = pd.DataFrame([row for rows in map_in_threads(write, range(n_patients)) for row in rows])
    write_table(truth[[name for name in truth if name in {*COLUMNS, "anatomy"}]], out / "trajectories.tsv")
    write_table(truth, out / "truth.tsv")
    logger.info("%d patients, %d scans, all volumes are simulated growth", n_patients, len(truth))
    return truth


def _write_patient(
    number: int, anatomy: Anatomy, grid: Grid, out: Path, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Write the scans of one patient; returns their truth."""
    rows = []
    for visit, (images, labels, truth) in enumerate(simulate_patient(number, anatomy, grid, **settings)):
        scan = f"{truth['patient_id']}-{visit:03d}"
        for name, image in images.items():
            write_volume(out / scan / f"{scan}-{name}.nii.gz", image, grid.affine)
        write_labels(out / scan / f"{scan}-seg.nii.gz", labels, grid.affine)
        rows.append({"scan_id": scan, **truth})
    return rows
