"""Semantic features of a tumour segmentation: volumes, location and shape, with presence flags.

Volumes and the surface are in mm, mm^2 and mm^3 and enter as ln(value + 1); the location is the centroid of the whole
tumour divided by the extent of the region of interest, in [0, 1]. A feature of an absent component is 0 with flag 0.
The surface is that of marching cubes on the mask smoothed by one voxel, since stairs of voxels enlarge it by half;
its area is scaled from the volume that it encloses to the volume of the mask.

Normaliser and shape residuals are fitted on training subjects only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import marching_cubes, mesh_surface_area

from neuromf.data.multimodal import MASS, OEDEMA

if TYPE_CHECKING:
    import pandas as pd

COMPONENTS = {"total": (1, 2, 3), "ncr": (1,), "ed": OEDEMA, "et": (3,), "mass": MASS}
VOLUMES = [f"log_volume_{name}" for name in COMPONENTS]
LOCATION = ["centroid_x", "centroid_y", "centroid_z"]
SHAPE = ["sphericity", "log_area", "solidity", "ratio_xy", "ratio_xz", "ratio_yz"]
FEATURES = [*VOLUMES, *LOCATION, *SHAPE]
SMOOTHING = 1.0  # voxels


def semantic_features(seg: NDArray, spacing_mm: Sequence[float]) -> tuple[dict[str, float], dict[str, int]]:
    """Features of a segmentation and their presence flags (1 or 0), by the names in `FEATURES`.

    Arguments:
        seg: BraTS labels after preprocessing, shape (I, J, K).
        spacing_mm: Voxel size along each axis in mm.
    """
    spacing = np.asarray(spacing_mm, float)
    features, present = dict.fromkeys(FEATURES, 0.0), dict.fromkeys(FEATURES, 0)
    for name, labels in COMPONENTS.items():
        volume = float(np.isin(seg, labels).sum() * spacing.prod())
        features[f"log_volume_{name}"], present[f"log_volume_{name}"] = float(np.log1p(volume)), int(volume > 0)
    tumour = np.asarray(seg) > 0
    if tumour.any():
        centroid = (np.argwhere(tumour).mean(0) + 0.5) / tumour.shape
        features |= dict(zip(LOCATION, centroid.tolist(), strict=True)) | shape_features(tumour, spacing)
        present |= dict.fromkeys([*LOCATION, *SHAPE], 1)
    return features, present


def shape_features(mask: NDArray, spacing: NDArray) -> dict[str, float]:
    """Sphericity pi^(1/3) (6 V)^(2/3) / A, ln(A + 1), solidity V / V_hull and bounding-box ratios of a mask.

    Arguments:
        mask: Not empty, shape (I, J, K).
        spacing: Voxel size in mm, (3,).
    """
    voxels = np.argwhere(mask)
    volume, extent = len(voxels) * spacing.prod(), (np.ptp(voxels, axis=0) + 1) * spacing
    smooth = ndimage.gaussian_filter(np.pad(mask.astype(np.float32), 4), SMOOTHING)
    vertices, faces, *_ = marching_cubes(smooth, 0.5 * smooth.max(), spacing=tuple(spacing))
    corners = vertices[faces]
    enclosed = abs(np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()) / 6
    area = float(mesh_surface_area(vertices, faces) * (volume / enclosed) ** (2 / 3))
    return {
        "sphericity": float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area),
        "log_area": float(np.log1p(area)),
        "solidity": min(1.0, float(enclosed / ConvexHull(vertices).volume)),
        "ratio_xy": float(extent[0] / extent[1]),
        "ratio_xz": float(extent[0] / extent[2]),
        "ratio_yz": float(extent[1] / extent[2]),
    }


# --- normaliser --------------------------------------------------------------------------------------


def fit_normaliser(features: "pd.DataFrame", present: "pd.DataFrame") -> dict[str, Any]:
    """Regression of shape on ln V_total, then mean and standard deviation of each feature, over training subjects.

    Arguments:
        features: One row per training subject, columns `FEATURES`.
        present: Presence flags of the same shape; absent features are left out.

    Returns:
        A value for JSON: {"shape": {feature: [intercept, slope]}, "mean": {feature: ...}, "std": {feature: ...}}.

    Raises:
        ValueError: If fewer than two training subjects have a tumour.
    """
    rows = present["log_volume_total"] > 0
    if rows.sum() < 2:
        raise ValueError(f"semantic targets need two training subjects with a tumour; got {int(rows.sum())}")
    log_volume = features.loc[rows, "log_volume_total"].to_numpy(float)
    lines = {name: np.polyfit(log_volume, features.loc[rows, name].to_numpy(float), 1)[::-1].tolist() for name in SHAPE}
    residuals = shape_residuals(features, lines).where(present[FEATURES] > 0)
    std = residuals.std(ddof=0).replace(0.0, 1.0).fillna(1.0)
    return {"shape": lines, "mean": residuals.mean().fillna(0.0).to_dict(), "std": std.to_dict()}


def shape_residuals(features: "pd.DataFrame", lines: Mapping[str, Sequence[float]]) -> "pd.DataFrame":
    """Features whose shape is replaced by its residual from the line in ln V_total, [intercept, slope] by feature."""
    log_volume = features["log_volume_total"]
    changed = {name: features[name] - lines[name][0] - lines[name][1] * log_volume for name in SHAPE}
    return features[FEATURES].assign(**changed)


def normalised_targets(
    features: "pd.DataFrame", present: "pd.DataFrame", normaliser: Mapping[str, Any]
) -> "pd.DataFrame":
    """Targets with mean 0 and standard deviation 1 over training subjects; 0 where absent."""
    import pandas as pd

    residuals = shape_residuals(features, normaliser["shape"])
    scaled = (residuals - pd.Series(normaliser["mean"])) / pd.Series(normaliser["std"])
    return scaled[FEATURES].where(present[FEATURES] > 0, 0.0)
