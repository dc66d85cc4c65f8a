"""Symmetry, topology, tissue contrast and tissue volumes of T1-weighted, skull-stripped volumes.

Volumes have shape (N, I, J, K), values in [0, 1]; axis 0 runs from left to right, with the mid-sagittal plane in the
middle of the array. Voxels brighter than 0.05 are foreground. In T1 the intensity increases from CSF over grey to white
matter; a mixture of three Gaussians separates the tissues. This is a plausibility check, not a segmentation: without
bias-field correction and atlas, deep grey matter and partial-volume voxels are assigned to either class.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import euler_number
from sklearn.mixture import GaussianMixture

from neuromf.core import parallel
from neuromf.metrics.images.spectral import as_spacing, as_volumes

FOREGROUND = 0.05  # intensity above which a voxel is brain
DEBRIS = 8  # voxels; components of this size or smaller are not counted
CSF, GM, WM = 1, 2, 3
NEIGHBOURS = np.ones((3, 3, 3))  # faces, edges and corners: 26


def symmetry(volumes: ArrayLike, foreground: float = FOREGROUND) -> NDArray:
    """Correlation of each volume with its left-right mirror image, 1 for perfect symmetry.

    Voxels are those in the foreground of the volume or of its mirror image; NaN if they are constant or fewer than 2.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K), left-right along I.
        foreground: Intensity above which a voxel is brain.

    Returns:
        Correlations, shape (N,).
    """
    return np.array([mirror_correlation(x, foreground) for x in as_volumes(volumes)])


def mirror_correlation(volume: NDArray, foreground: float) -> float:
    """Correlation of one volume (I, J, K) with its mirror image along axis 0."""
    mirror = volume[::-1]
    mask = (volume > foreground) | (mirror > foreground)
    a, b = volume[mask].astype(np.float64), mirror[mask].astype(np.float64)
    if len(a) < 2 or np.ptp(a) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])


def thresholds(sample: NDArray, seed: int) -> tuple[float, float]:
    """Intensity thresholds between CSF and GM, and between GM and WM.

    A threshold is where the posterior of the brighter class exceeds that of the darker one, between their means. Unlike
    the most probable class, thresholds do not assign the far tail of a narrow class to a broad one.
    """
    model = GaussianMixture(3, random_state=seed).fit(sample[:, None])
    order = np.argsort(model.means_.ravel())
    means = model.means_.ravel()[order]

    def threshold(dark: int) -> float:
        grid = np.linspace(means[dark], means[dark + 1], 1001)
        posterior = model.predict_proba(grid[:, None])[:, order]
        brighter = posterior[:, dark + 1] >= posterior[:, dark]
        return float(grid[brighter.argmax()] if brighter.any() else grid[-1])

    return threshold(0), threshold(1)


def tissues(volume: NDArray, foreground: float = FOREGROUND, seed: int = 0, n_voxels: int = 20_000) -> NDArray:
    """Tissue of each voxel: 0 background, 1 CSF, 2 grey matter, 3 white matter.

    All voxels are 0 if there are fewer than 100 foreground voxels or three intensities.

    Arguments:
        volume: One volume in [0, 1], shape (I, J, K).
        foreground: Intensity above which a voxel is brain.
        seed: Seed of the subsample and of the initial mixture.
        n_voxels: Largest number of foreground voxels for the fit of the mixture.
    """
    inside = volume > foreground
    values = volume[inside].astype(np.float64)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    sample = np.random.default_rng(seed).permutation(values)[:n_voxels]
    if len(sample) >= 100 and len(np.unique(sample)) >= 3:
        labels[inside] = CSF + np.digitize(values, thresholds(sample, seed))
    return labels


def contrast(volume: NDArray, labels: NDArray) -> float:
    """White minus grey matter mean over their pooled standard deviation; NaN if a class has fewer than two voxels."""
    gm, wm = volume[labels == GM].astype(np.float64), volume[labels == WM].astype(np.float64)
    if min(len(gm), len(wm)) < 2:
        return np.nan
    squares = (len(gm) - 1) * gm.var(ddof=1) + (len(wm) - 1) * wm.var(ddof=1)
    sd = np.sqrt(squares / (len(gm) + len(wm) - 2))
    return float((wm.mean() - gm.mean()) / sd) if sd > 0 else np.nan


def describe(volumes: ArrayLike, spacing_mm: ArrayLike, foreground: float = FOREGROUND, seed: int = 0) -> pd.DataFrame:
    """Tissue contrast and tissue volumes, a row per volume.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        spacing_mm: Voxel size in mm, one number or one per axis.
        foreground: Intensity above which a voxel is brain.
        seed: Seed of the mixtures.

    Returns:
        tissue_contrast: White minus grey matter mean over their pooled standard deviation. Thresholds trim the tails of
            the classes, so values of other segmentations are not comparable.
        ventricle_ml: CSF in the central third, along each axis, of the foreground's bounding box, in 26-connected
            components of more than 8 voxels: an index of the ventricles without their horns.
        csf_ml, gm_ml, wm_ml, brain_ml: Volumes of the tissues and of the foreground in ml.
    """
    voxel_ml = as_spacing(spacing_mm).prod() / 1000

    def of(x: NDArray) -> dict[str, float]:
        labels = tissues(x, foreground, seed)
        csf, gm, wm = np.bincount(labels.ravel(), minlength=4)[1:] * voxel_ml
        volumes_ml = {"csf_ml": csf, "gm_ml": gm, "wm_ml": wm, "brain_ml": (x > foreground).sum() * voxel_ml}
        ventricles = component_sizes(central_third(labels) == CSF).sum() * voxel_ml
        return {"tissue_contrast": contrast(x, labels), "ventricle_ml": ventricles, **volumes_ml}

    return pd.DataFrame(parallel.map_in_threads(of, as_volumes(volumes)))


def central_third(labels: NDArray) -> NDArray:
    """Central third, along each axis, of the bounding box of all labels; empty if there are none."""
    box = ndimage.find_objects((labels > 0).astype(int))
    if not box:
        return labels[:0]
    thirds = ((s.start, s.stop - s.start) for s in box[0])
    return labels[tuple(slice(start + round(n / 3), start + round(2 * n / 3)) for start, n in thirds)]


def component_sizes(mask: NDArray) -> NDArray:
    """Sizes in voxels of the 26-connected components of a mask that are larger than debris."""
    labels, _ = ndimage.label(mask, structure=NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]
    return sizes[sizes > DEBRIS]


def topology(volumes: ArrayLike, foreground: float = FOREGROUND) -> pd.DataFrame:
    """Betti numbers of each foreground, a row per volume; a ball has 1, 0, 0.

    Components of at most DEBRIS voxels are left out. betti_1 follows from the Euler characteristic, betti_0 - betti_1 +
    betti_2. Real foregrounds have tunnels and cavities too, where sulci meet: compare with real volumes.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        foreground: Intensity above which a voxel is brain.

    Returns:
        Columns betti_0 (26-connected components), betti_2 (cavities) and betti_1 (tunnels).
    """

    def of(x: NDArray) -> dict[str, int]:
        labels, _ = ndimage.label(x > foreground, structure=NEIGHBOURS)
        large = np.flatnonzero(np.bincount(labels.ravel())[1:] > DEBRIS) + 1
        mask = np.pad(np.isin(labels, large), 1)
        cavities = ndimage.label(~mask)[1] - 1
        tunnels = len(large) + cavities - euler_number(mask, connectivity=3)
        return {"betti_0": len(large), "betti_2": cavities, "betti_1": tunnels}

    return pd.DataFrame(parallel.map_in_threads(of, as_volumes(volumes)))
