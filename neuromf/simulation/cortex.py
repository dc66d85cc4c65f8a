"""Anatomy of the template for lesions of the cortex: rough lobes, bottoms of sulci, lateral ventricles.

Masks have shape (I, J, K) on the 1 mm RAS grid of the template; positions are voxel indices (N, 3).
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuromf.simulation import brains

SULCUS_DEPTH_MM = (8.0, 25.0)  # depth of the bottom of a sulcus below the surface of the brain
MIN_WHITE = 0.45  # fraction of white matter around the bottom of a sulcus, where the cortex folds


@functools.cache
def average() -> tuple[NDArray, NDArray]:
    """Tissue fractions (3, I, J, K) of an average participant, and depth (I, J, K) below the brain surface in mm."""
    maps = brains.load_template().maps
    fractions = brains.tissue_fractions(maps[:, :3], {"csf_bias": 0.0, "grey_bias": 0.0})[0].numpy()
    return fractions, ndimage.distance_transform_edt(fractions.sum(0) > 0.5)


def _coordinates() -> tuple[NDArray, NDArray, NDArray]:
    """Coordinates x, y, z of the template's voxels in mm, as open grids."""
    corner = brains.load_template().affine[:3, 3]
    x, y, z = np.ogrid[tuple(slice(c, c + n) for c, n in zip(corner, average()[1].shape, strict=True))]
    return x, y, z


def lobes() -> dict[str, NDArray]:
    """Masks (I, J, K) of rough lobes by MNI152 coordinates, without cerebellum, insula and deep nuclei."""
    x, y, z = _coordinates()
    lateral = np.abs(x)
    central_y = -5 - 0.5 * (z - 20)  # of the central sulcus
    deep = (lateral < 44) & (y > -32) & (y < 28) & (z > -15) & (z < 24)
    cerebellum = (z < -12) & (y < -40) & (lateral < 60)
    free = ~deep & ~cerebellum & (lateral > 3)
    temporal = free & (lateral > 26) & (z < 5) & (z > -40) & (y < 16) & (y > -60)
    occipital = free & (y < -72) & (z > -12)
    frontal = free & ~temporal & (y > central_y) & (z > -14)
    parietal = free & ~temporal & ~frontal & ~occipital & (z > 22)
    return {"frontal": frontal, "parietal": parietal, "temporal": temporal, "occipital": occipital}


@functools.cache
def sulcus_bottoms() -> dict[tuple[str, str], NDArray]:
    """Voxels (N, 3) of deep cortex surrounded by white matter, by lobe and hemisphere (L or R)."""
    (_, grey, white), depth = average()
    bottom = (grey > 0.6) & (ndimage.uniform_filter(white, 11) > MIN_WHITE)
    bottom &= (depth > SULCUS_DEPTH_MM[0]) & (depth < SULCUS_DEPTH_MM[1])
    x = _coordinates()[0]
    sides = {"L": x < 0, "R": x > 0}
    return {(lobe, side): np.argwhere(bottom & mask & half) for lobe, mask in lobes().items()
            for side, half in sides.items()}  # fmt: skip


@functools.cache
def ventricles() -> NDArray:
    """Voxels (N, 3) of the lateral ventricles."""
    (csf, _, _), depth = average()
    x, y, z = _coordinates()
    middle = (np.abs(x) > 3) & (np.abs(x) < 30) & (y > -60) & (y < 40) & (z > -12) & (z < 34)
    return np.argwhere((csf > 0.6) & (depth > 25) & middle)
