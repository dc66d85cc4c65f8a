"""Cheap anatomical sanity of T1-weighted, skull-stripped volumes.

Volumes have shape (N, I, J, K) and intensities in [0, 1]; axis 0 runs from left to right, with the
mid-sagittal plane in the middle of the array. Foreground is what is brighter than 0.05. On T1 the
tissues brighten from CSF over grey to white matter, and a mixture of three Gaussians separates
them. These are checks that a volume looks like a brain, not a segmentation: without a bias-field
correction or an atlas, deep grey matter and partial volume fall on either side.
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
DEBRIS = 8  # voxels; pieces of this size or smaller are not counted
CSF, GM, WM = 1, 2, 3
NEIGHBOURS = np.ones((3, 3, 3))  # faces, edges and corners: 26


def symmetry(volumes: ArrayLike, foreground: float = FOREGROUND) -> NDArray:
    """Correlation of each volume with its left-right mirror, 1 for perfect symmetry.

    Taken over the voxels that are foreground in the volume or in its mirror; NaN when these all
    have one intensity or there are none.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K), left-right along I.
        foreground: Intensity above which a voxel is brain.

    Returns:
        Correlations with shape (N,).
    """
    return np.array([mirror_correlation(x, foreground) for x in as_volumes(volumes)])


def mirror_correlation(volume: NDArray, foreground: float) -> float:
    """Correlation of one (I, J, K) volume with its mirror along axis 0."""
    mirror = volume[::-1]
    mask = (volume > foreground) | (mirror > foreground)
    a, b = volume[mask].astype(np.float64), mirror[mask].astype(np.float64)
    if len(a) < 2 or np.ptp(a) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])


def cuts(sample: NDArray, seed: int) -> tuple[float, float]:
    """Intensities between CSF and GM, and between GM and WM.

    Where the posterior of the brighter class overtakes that of the darker one between their means.
    Cutting there, rather than taking the likeliest class, keeps a broad class out of the far tail
    of a narrow one.
    """
    model = GaussianMixture(3, random_state=seed).fit(sample[:, None])
    order = np.argsort(model.means_.ravel())
    means = model.means_.ravel()[order]

    def cut(dark: int) -> float:
        grid = np.linspace(means[dark], means[dark + 1], 1001)
        posterior = model.predict_proba(grid[:, None])[:, order]
        brighter = posterior[:, dark + 1] >= posterior[:, dark]
        return float(grid[brighter.argmax()] if brighter.any() else grid[-1])

    return cut(0), cut(1)


def tissues(volume: NDArray, foreground: float = FOREGROUND, seed: int = 0, n_voxels: int = 20_000) -> NDArray:
    """Tissue of each voxel: 0 background, 1 CSF, 2 grey matter, 3 white matter.

    A volume with fewer than 100 foreground voxels, or fewer than three intensities among them, has
    no tissues: all its voxels are 0.

    Arguments:
        volume: One volume in [0, 1], with shape (I, J, K).
        foreground: Intensity above which a voxel is brain.
        seed: Seed of the subsample and of the mixture's start.
        n_voxels: Foreground voxels the mixture is fitted to, at most.
    """
    inside = volume > foreground
    values = volume[inside].astype(np.float64)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    sample = np.random.default_rng(seed).permutation(values)[:n_voxels]
    if len(sample) >= 100 and len(np.unique(sample)) >= 3:
        labels[inside] = CSF + np.digitize(values, cuts(sample, seed))
    return labels


def contrast(volume: NDArray, labels: NDArray) -> float:
    """White minus grey matter mean over their pooled deviation; NaN where a class has under two voxels."""
    gm, wm = volume[labels == GM].astype(np.float64), volume[labels == WM].astype(np.float64)
    if min(len(gm), len(wm)) < 2:
        return np.nan
    squares = (len(gm) - 1) * gm.var(ddof=1) + (len(wm) - 1) * wm.var(ddof=1)
    sd = np.sqrt(squares / (len(gm) + len(wm) - 2))
    return float((wm.mean() - gm.mean()) / sd) if sd > 0 else np.nan


def describe(volumes: ArrayLike, spacing_mm: ArrayLike, foreground: float = FOREGROUND, seed: int = 0) -> pd.DataFrame:
    """Contrast, ventricles and tissues of each volume from one segmentation, one row per volume.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K).
        spacing_mm: Voxel length in mm, one or one per axis.
        foreground: Intensity above which a voxel is brain.
        seed: Seed of the mixtures.

    Returns:
        tissue_contrast: White minus grey matter mean over their pooled standard deviation. Classes are cut at one
            intensity, which trims their tails: compare with each other, not with those of another segmentation.
        ventricle_ml: CSF in the central third, along each axis, of the foreground's bounding box, in 26-connected
            pieces of more than 8 voxels: an index of the ventricles, whose horns are cut off.
        csf_ml, gm_ml, wm_ml, brain_ml: Volumes of the tissues and of all foreground, in millilitres.
    """
    voxel_ml = as_spacing(spacing_mm).prod() / 1000

    def of(x: NDArray) -> dict[str, float]:
        labels = tissues(x, foreground, seed)
        csf, gm, wm = np.bincount(labels.ravel(), minlength=4)[1:] * voxel_ml
        volumes_ml = {"csf_ml": csf, "gm_ml": gm, "wm_ml": wm, "brain_ml": (x > foreground).sum() * voxel_ml}
        ventricles = pieces(middle(labels) == CSF).sum() * voxel_ml
        return {"tissue_contrast": contrast(x, labels), "ventricle_ml": ventricles, **volumes_ml}

    return pd.DataFrame(parallel.map_in_threads(of, as_volumes(volumes)))


def middle(labels: NDArray) -> NDArray:
    """Central third, along each axis, of the box around all labels; empty when there are none."""
    box = ndimage.find_objects((labels > 0).astype(int))
    if not box:
        return labels[:0]
    thirds = ((s.start, s.stop - s.start) for s in box[0])
    return labels[tuple(slice(start + round(n / 3), start + round(2 * n / 3)) for start, n in thirds)]


def pieces(mask: NDArray) -> NDArray:
    """Sizes in voxels of the 26-connected components of a mask that are larger than debris."""
    labels, _ = ndimage.label(mask, structure=NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]
    return sizes[sizes > DEBRIS]


def components(volumes: ArrayLike, foreground: float = FOREGROUND) -> NDArray:
    """Number of 26-connected foreground pieces of more than 8 voxels, shape (N,): 1 for one brain."""
    return np.array([len(pieces(x > foreground)) for x in as_volumes(volumes)])


def topology(volumes: ArrayLike, foreground: float = FOREGROUND) -> pd.DataFrame:
    """Pieces, cavities and tunnels of each foreground, one row per volume: 1, 0, 0 for a ball.

    Debris is left out, and cavities and tunnels no wider than a corner do not count. The Euler characteristic is
    pieces - tunnels + cavities, which gives the tunnels. Real foregrounds have some too, where sulci meet: compare
    with those of real volumes.

    Arguments:
        volumes: Volumes in [0, 1], with shape (N, I, J, K).
        foreground: Intensity above which a voxel is brain.

    Returns:
        Columns betti_0 (pieces), betti_2 (cavities) and betti_1 (tunnels).
    """

    def of(x: NDArray) -> dict[str, int]:
        labels, _ = ndimage.label(x > foreground, structure=NEIGHBOURS)
        kept = np.flatnonzero(np.bincount(labels.ravel())[1:] > DEBRIS) + 1
        mask = np.pad(np.isin(labels, kept), 1)
        cavities = ndimage.label(~mask)[1] - 1
        tunnels = len(kept) + cavities - euler_number(mask, connectivity=3)
        return {"betti_0": len(kept), "betti_2": cavities, "betti_1": tunnels}

    return pd.DataFrame(parallel.map_in_threads(of, as_volumes(volumes)))
