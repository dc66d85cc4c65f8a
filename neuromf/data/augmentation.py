"""Augmentation of volumes before they are encoded: small random changes of pose, size and brightness.

Volumes have shape (I, J, K), RAS+, in [0, 1]. Images are changed, not latents, because the autoencoder is not
equivariant: even a flipped latent is not the latent of a flipped brain (see `flip_error`). A
random change depends on seed, scan and number only, so it is the same in any shard and any order.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neuromf.core import seeds

AMOUNTS = {"rotation_deg": 5.0, "scale": 0.05, "shift_mm": 3.0, "gamma": 0.15, "intensity": 0.05}
LEFT_RIGHT = 0  # axis of a volume that runs from left to right
EMPTY_ABOVE = 1 / 3  # a background is empty, and stays so, if more than this fraction of voxels is exactly 0


@dataclass(frozen=True)
class Change:
    """A change of a volume, applied in the order of these fields. The defaults change nothing.

    Arguments:
        mirror: Whether left and right are exchanged.
        rotation_deg: Rotation angles about the first, the second, then the third axis, through the centre.
        scale: Factor of all lengths.
        shift_mm: Shift towards R, A and S.
        gamma: Exponent of the intensities; above 1 is darker.
        intensity: Factor of the intensities, which are then clipped to [0, 1].
    """

    mirror: bool = False
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gamma: float = 1.0
    intensity: float = 1.0


IDENTITY, MIRROR = Change(), Change(mirror=True)


def draw_change(
    seed: int, scan: str, number: int, *, amounts: Mapping[str, float] | None = None, mirror: bool = False
) -> Change:
    """Random change `number` of a scan; each part is uniform between minus and plus its amount.

    Arguments:
        amounts: Largest changes by name, which override `AMOUNTS`: rotation_deg and shift_mm per axis; scale, gamma
            and intensity as logarithms of factors (0.05 is about 5 %).
        mirror: Whether half of the changes exchange left and right.
    """
    if unknown := sorted((amounts or {}).keys() - AMOUNTS.keys()):
        raise ValueError(f"unknown augmentation {', '.join(unknown)}; allowed: {', '.join(AMOUNTS)}")
    most = {**AMOUNTS, **(amounts or {})}
    drawn = torch.rand(10, generator=seeds.generator("augment", seed, scan, number), dtype=torch.float64)
    u = 2 * drawn.numpy() - 1
    return Change(
        mirror=mirror and bool(u[9] < 0),
        rotation_deg=tuple((most["rotation_deg"] * u[:3]).tolist()),
        scale=float(np.exp(most["scale"] * u[3])),
        shift_mm=tuple((most["shift_mm"] * u[4:7]).tolist()),
        gamma=float(np.exp(most["gamma"] * u[7])),
        intensity=float(np.exp(most["intensity"] * u[8])),
    )


def apply_change(volume: NDArray, change: Change, *, spacing_mm: ArrayLike) -> NDArray:
    """The changed volume (I, J, K), float32 in [0, 1]. Parts of the change that are off leave every bit as it was.

    Resampling uses cubic splines, because linear interpolation blurs. A background of exact zeros stays zero, where
    splines would ring around the brain. Voxels from outside the volume repeat the value at its border.

    Arguments:
        spacing_mm: Voxel size in mm, one value or one per axis.
    """
    if change.mirror:
        volume = np.flip(volume, LEFT_RIGHT)
    if any(change.rotation_deg) or any(change.shift_mm) or change.scale != 1:
        volume = _resample(volume, change, np.broadcast_to(np.asarray(spacing_mm, float), 3))
    if change.gamma != 1 or change.intensity != 1:
        volume = np.clip(change.intensity * volume**change.gamma, 0, 1)
    return np.ascontiguousarray(volume, np.float32)


def _resample(volume: NDArray, change: Change, spacing_mm: NDArray) -> NDArray:
    """Rotate, scale and shift a volume about its centre, in world space."""
    forward = change.scale * Rotation.from_euler("xyz", change.rotation_deg, degrees=True).as_matrix()
    inverse = np.linalg.inv(forward) * spacing_mm / spacing_mm[:, None]  # from output voxels to input voxels
    centre = (np.array(volume.shape) - 1) / 2
    offset = centre - inverse @ (centre + np.array(change.shift_mm) / spacing_mm)
    moved = ndimage.affine_transform(volume.astype(np.float32), inverse, offset, order=3, mode="nearest")
    if np.mean(volume == 0) > EMPTY_ABOVE:
        inside = ndimage.affine_transform((volume > 0).astype(np.float32), inverse, offset, order=1, mode="nearest")
        moved[inside < 0.5] = 0
    return np.clip(moved, 0, 1)


def as_text(change: Change) -> str:
    """A text that is equal for equal changes and differs for different ones."""
    return repr(asdict(change))
