"""Talairach and MNI coordinates: the affine transform of Lancaster et al. and its inverse.

References:
    Bias between MNI and Talairach coordinates analyzed using the ICBM-152 brain template (Lancaster et al., 2007),
    Human Brain Mapping: icbm_other, the transform for data that were normalised by neither SPM nor FSL
"""

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

MNI_TO_TAL = np.array(
    [
        [0.9357, 0.0029, -0.0072, -1.0423],
        [-0.0065, 0.9396, -0.0726, -1.3940],
        [0.0103, 0.0752, 0.8967, 3.6475],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def mni_to_tal(points_mm: ArrayLike) -> NDArray:
    """Talairach coordinates of MNI coordinates, shape (n, 3) in mm."""
    return nib.affines.apply_affine(MNI_TO_TAL, np.asarray(points_mm, float))


def tal_to_mni(points_mm: ArrayLike) -> NDArray:
    """MNI coordinates of Talairach coordinates, shape (n, 3) in mm."""
    return nib.affines.apply_affine(np.linalg.inv(MNI_TO_TAL), np.asarray(points_mm, float))
