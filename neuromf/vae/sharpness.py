"""Sharpness of reconstructions: a loss that matches the local contrast of details.

An L1 loss makes details fainter wherever they cannot be predicted exactly: the fraction of power above half of Nyquist
falls to a third of that of the volumes. The loss here compares the strength of details in overlapping windows, not
their values, so that a cortex keeps its contrast. It can be satisfied by wrong details: use it beside an L1 loss, and
check PSNR and the coherence of details.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 8  # voxels along each axis
FLOOR = 1e-5  # mean squared detail below which contrast is ignored: background and noise


def details(volume: Tensor) -> Tensor:
    """Volumes (B, 1, I, J, K) minus their means over 3 x 3 x 3 voxels."""
    return volume - F.avg_pool3d(F.pad(volume, (1,) * 6, mode="replicate"), 3, stride=1)


def local_contrast(volume: Tensor) -> Tensor:
    """Root mean square of the details in windows that overlap by half, (B, 1, I', J', K')."""
    return torch.sqrt(F.avg_pool3d(details(volume) ** 2, WINDOW, stride=WINDOW // 2) + FLOOR)


def contrast_loss(volume: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean absolute difference of the local contrast of volumes and reconstructions, in float32."""
    return F.l1_loss(local_contrast(reconstruction.float()), local_contrast(volume.float()))
