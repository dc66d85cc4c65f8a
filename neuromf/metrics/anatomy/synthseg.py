"""Regional volumes by SynthSeg of FreeSurfer: its structures, summed to the regions of this project.

References:
    SynthSeg: Segmentation of brain MRI scans of any contrast and resolution (Billot et al., 2023),
    Medical Image Analysis 86:102789
"""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuromf.data import nifti

TOOL = "mri_synthseg"
DEEP = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens area")
SIDES = ("left", "right")
STRUCTURES = {  # columns of SynthSeg's table by region
    **{f"{side}_gm": [f"{side} {name}" for name in ("cerebral cortex", *DEEP)] for side in SIDES},
    **{f"{side}_wm": [f"{side} cerebral white matter", f"{side} ventral dc"] for side in SIDES},
    **{f"{side}_ventricle": [f"{side} lateral ventricle", f"{side} inferior lateral ventricle"] for side in SIDES},
    "cerebellum": [f"{side} cerebellum {tissue}" for side in SIDES for tissue in ("cortex", "white matter")],
    "brain_stem": ["brain-stem"],
    "csf": ["csf", "3rd ventricle", "4th ventricle"],
    "intracranial": ["total intracranial"],
}
TISSUE = [f"{side}_{tissue}" for side in SIDES for tissue in ("gm", "wm")] + ["cerebellum", "brain_stem"]


def volumes(volumes: NDArray, affines: NDArray) -> pd.DataFrame:
    """Regions of all volumes in ml, from one call of mri_synthseg; a volume that it cannot segment is a NaN row.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        affines: Voxel to mm, shape (N, 4, 4).

    Raises:
        FileNotFoundError: If mri_synthseg is not on the PATH.
        RuntimeError: If it wrote no table of volumes.
    """
    tool = shutil.which(TOOL)
    if tool is None:
        raise FileNotFoundError(
            f"{TOOL} must be on the PATH for evaluation.segmentation synthseg; it was not found: "
            "set up FreeSurfer (7.3 or newer), or choose atlas"
        )
    with TemporaryDirectory() as folder:
        scans, labels, table = (Path(folder, name) for name in ("scans", "labels", "volumes.csv"))
        scans.mkdir()
        for n, (volume, affine) in enumerate(zip(volumes, affines, strict=True)):
            image = nib.Nifti1Image(volume.astype(np.float32), affine)
            (scans / f"{n:06d}.nii.gz").write_bytes(nifti.compress(image))
        done = subprocess.run(
            [tool, "--i", str(scans), "--o", str(labels), "--vol", str(table), "--threads", "1"],
            capture_output=True,
            text=True,
        )
        if not table.is_file():
            output = (done.stderr or done.stdout).strip()[-500:]
            raise RuntimeError(f"{TOOL} wrote no table of volumes and ended with status {done.returncode}: {output}")
        return read(table, len(volumes))


def read(path: Path, n: int) -> pd.DataFrame:
    """Regions in ml of scans 0 to n - 1 from SynthSeg's table, with scans in the first column and volumes in mm³."""
    table = pd.read_csv(path, index_col=0).rename(columns=str.lower)
    if missing := sorted({name for names in STRUCTURES.values() for name in names} - set(table.columns)):
        raise ValueError(
            f"the table of {TOOL} must have the columns of SynthSeg 2; {missing} are not among {list(table.columns)}: "
            "use FreeSurfer 7.3 or newer"
        )
    table = table.set_axis(table.index.astype(int)).reindex(range(n)) / 1000
    regions = pd.DataFrame({region: table[names].sum(axis=1, skipna=False) for region, names in STRUCTURES.items()})
    return regions.assign(brain=regions[TISSUE].sum(axis=1, skipna=False))
