"""Where lesions of the cortex can be: rough lobes of the template, the bottoms of its sulci, and its ventricles.

Masks have shape (I, J, K) on the template's grid, 1 mm, RAS; places are voxels (N, 3). All follow from the template.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuromf.simulation import brains

SULCUS_MM = (8.0, 25.0)  # depth of the bottom of a sulcus below the surface of the brain
WALLED = 0.45  # share of white matter around it: the cortex turns there


@functools.cache
def average() -> tuple[NDArray, NDArray]:
    """Shares (3, I, J, K) of the template as they are in an average person, and depth below its surface in mm."""
    maps = brains.load_template().maps
    shares = brains.tissue_shares(maps[:, :3], {"csf_bias": 0.0, "grey_bias": 0.0})[0].numpy()
    return shares, ndimage.distance_transform_edt(shares.sum(0) > 0.5)


def _mm() -> tuple[NDArray, NDArray, NDArray]:
    """Coordinates x, y, z of the template's voxels in mm, ready to broadcast."""
    corner = brains.load_template().affine[:3, 3]
    x, y, z = np.ogrid[tuple(slice(c, c + n) for c, n in zip(corner, average()[1].shape, strict=True))]
    return x, y, z


def lobes() -> dict[str, NDArray]:
    """Rough lobes of MNI152 by coordinates, without cerebellum, insula and deep nuclei: masks (I, J, K)."""
    x, y, z = _mm()
    side = np.abs(x)
    central = -5 - 0.5 * (z - 20)  # the y of the central sulcus at a height
    deep = (side < 44) & (y > -32) & (y < 28) & (z > -15) & (z < 24)
    below = (z < -12) & (y < -40) & (side < 60)
    free = ~deep & ~below & (side > 3)
    temporal = free & (side > 26) & (z < 5) & (z > -40) & (y < 16) & (y > -60)
    back = free & (y < -72) & (z > -12)
    frontal = free & ~temporal & (y > central) & (z > -14)
    parietal = free & ~temporal & ~frontal & ~back & (z > 22)
    return {"frontal": frontal, "parietal": parietal, "temporal": temporal, "occipital": back}


@functools.cache
def fundi() -> dict[tuple[str, str], NDArray]:
    """Voxels (N, 3) at the bottom of sulci, by lobe and side: cortex, deep enough, with white matter around it."""
    (_, grey, white), depth = average()
    walled = ndimage.uniform_filter(white, 11) > WALLED
    bottom = (grey > 0.6) & walled & (depth > SULCUS_MM[0]) & (depth < SULCUS_MM[1])
    x = _mm()[0]
    sides = {"L": x < 0, "R": x > 0}
    return {(lobe, side): np.argwhere(bottom & there & half) for lobe, there in lobes().items()
            for side, half in sides.items()}  # fmt: skip


@functools.cache
def ventricles() -> NDArray:
    """Voxels (N, 3) of the lateral ventricles."""
    (fluid, _, _), depth = average()
    x, y, z = _mm()
    middle = (np.abs(x) > 3) & (np.abs(x) < 30) & (y > -60) & (y < 40) & (z > -12) & (z < 34)
    return np.argwhere((fluid > 0.6) & (depth > 25) & middle)
