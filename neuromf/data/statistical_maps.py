"""Dense statistical maps in MNI152 space that generated maps are compared with: pain, button press, your own contrasts.

References:
    Pain: NeuroVault collection 1425 (Maumet et al., 2016), CC0, as t maps
    Button press: NeuroVault image 10426, CC0
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuromf.data.brain_grid import BrainGrid

if TYPE_CHECKING:
    import pandas as pd

BUTTON_PRESS = "neurovault_10426_button_press_z.nii.gz"
HCP_TASKS = ("emotion", "gambling", "language", "motor", "relational", "social", "wm")


@dataclass(frozen=True, eq=False)
class StatisticalMap:
    """One map on a brain grid."""

    name: str
    values: NDArray[np.float32]  # (grid.n_voxels,), 0 outside the map's own mask
    valid: NDArray[np.bool_]  # (grid.n_voxels,), the map's own mask
    n_subjects: int | None = None


def read_statistical_map(path: str | Path, grid: BrainGrid, n_subjects: int | None = None) -> StatisticalMap:
    """A map at the voxel centres of a grid, by trilinear interpolation.

    Maps finer than the grid are smoothed first, by a Gaussian with the FWHM of its voxels.

    Raises:
        ValueError: If the file is no 3D map or not finite.
    """
    image = nib.Nifti1Image.from_filename(path)
    data = np.asarray(image.get_fdata(dtype=np.float32))
    if data.ndim != 3 or not np.isfinite(data).all():
        raise ValueError(f"{path} must be a finite 3D map; got shape {data.shape}")
    inside = (data != 0).astype(np.float32)
    voxels = nib.affines.apply_affine(np.linalg.inv(image.affine), grid.centres_mm).T
    spacing = nib.affines.voxel_sizes(image.affine)
    sigma = np.sqrt(np.maximum(grid.spacing_mm**2 - spacing**2, 0)) / 2.3548 / spacing
    weights, sums = (ndimage.gaussian_filter(part, sigma) for part in (inside, data))
    weight, total = (ndimage.map_coordinates(part, voxels, order=1) for part in (weights, sums))
    valid = weight > 0.5
    values = np.where(valid, total / np.maximum(weight, 1e-6), 0).astype(np.float32)
    return StatisticalMap(Path(path).name.removesuffix(".gz").removesuffix(".nii"), values, valid, n_subjects)


def read_pain_maps(folder: str | Path, grid: BrainGrid) -> list[StatisticalMap]:
    """The pain t maps that maps.tsv of a folder lists.

    Raises:
        ValueError: If maps.tsv or a map is missing.
    """
    table = _read_list(Path(folder))
    return [read_statistical_map(Path(folder) / row.map, grid, int(row.design_rows)) for row in table.itertuples()]


def _read_list(folder: Path) -> "pd.DataFrame":
    import pandas as pd

    if not (folder / "maps.tsv").is_file():
        raise ValueError(
            f"{folder} has no maps.tsv: point NEUROMF_REAL_DATA or atlas.data_root to the folder of statmaps"
        )
    table = pd.read_csv(folder / "maps.tsv", sep="\t")
    if absent := [name for name in table["map"] if not (folder / name).is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(absent)}")
    return table


def read_hcp_contrasts(folder: str | Path | None, grid: BrainGrid) -> dict[str, list[StatisticalMap]]:
    """Maps by HCP task, from your files {task}_{name}.nii.gz; the maps cannot be redistributed.

    Raises:
        ValueError: If there is no folder, or it holds no map of at least two tasks.
    """
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"HCP contrasts are yours to supply: a folder of {{task}}_{{name}}.nii.gz; got {folder}")
    paths = {task: sorted(Path(folder).glob(f"{task}_*.nii*")) for task in HCP_TASKS}
    found = {task: [read_statistical_map(path, grid) for path in files] for task, files in paths.items() if files}
    if len(found) < 2:
        raise ValueError(
            f"{folder} must hold maps of two tasks of {', '.join(HCP_TASKS)}; got {', '.join(found) or 'none'}"
        )
    return found
