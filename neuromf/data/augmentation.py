"""Small changes of a volume before it is encoded: pose, size, brightness. Drawn first, then applied.

Volumes have shape (I, J, K), RAS+, in [0, 1]. Changes are made to images and not to latents, since the autoencoder
is not equivariant: not even a flipped latent is the latent of a flipped head (`roundtrip.flip_error` measures it).
A drawn change depends on seed, scan and number alone, so that a copy is the same in any shard and any order.
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
EMPTY_ABOVE = 1 / 3  # share of voxels at exactly 0 that says the background was removed, and shall stay so


@dataclass(frozen=True)
class Change:
    """What is done to a volume, in this order; as it stands here, nothing.

    Arguments:
        mirror: Left and right change places.
        rotation_deg: Angles about the first, then the second, then the third axis, through the middle.
        scale: Factor of every length.
        shift_mm: Along each axis, towards R, A and S.
        gamma: Exponent of intensities; above 1 is darker.
        intensity: Factor of intensities, which are then clipped to [0, 1].
    """

    mirror: bool = False
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gamma: float = 1.0
    intensity: float = 1.0


NOTHING, MIRROR = Change(), Change(mirror=True)


def draw(
    seed: int, scan: str, number: int, *, amounts: Mapping[str, float] | None = None, mirror: bool = False
) -> Change:
    """Change `number` of a scan, each part uniform within its amount on either side of nothing.

    Arguments:
        amounts: Largest changes by name, in place of those of `AMOUNTS`: rotation_deg and shift_mm about or along
            each axis, and scale, gamma and intensity as logarithms of factors, so that 0.05 is about 5 %.
        mirror: Whether half of the changes mirror too.
    """
    if unknown := sorted((amounts or {}).keys() - AMOUNTS.keys()):
        raise ValueError(f"augmentation knows no {', '.join(unknown)}; it has amounts of {', '.join(AMOUNTS)}")
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


def apply(volume: NDArray, change: Change, *, spacing_mm: ArrayLike) -> NDArray:
    """The changed volume (I, J, K), float32 in [0, 1]; what no part of the change touches stays bit by bit.

    Resampling is by cubic splines, since a linear one blurs. A background that was exactly 0 stays 0, where splines
    would ring around the head; what moves in from beyond the border continues what stands at the border.

    Arguments:
        spacing_mm: Voxel size, one or one per axis.
    """
    if change.mirror:
        volume = np.flip(volume, LEFT_RIGHT)
    if any(change.rotation_deg) or any(change.shift_mm) or change.scale != 1:
        volume = _moved(volume, change, np.broadcast_to(np.asarray(spacing_mm, float), 3))
    if change.gamma != 1 or change.intensity != 1:
        volume = np.clip(change.intensity * volume**change.gamma, 0, 1)
    return np.ascontiguousarray(volume, np.float32)


def _moved(volume: NDArray, change: Change, spacing_mm: NDArray) -> NDArray:
    """The volume turned, scaled and shifted about its middle, in world space."""
    forward = change.scale * Rotation.from_euler("xyz", change.rotation_deg, degrees=True).as_matrix()
    back = np.linalg.inv(forward) * spacing_mm / spacing_mm[:, None]  # from voxels of the result to those it is made of
    middle = (np.array(volume.shape) - 1) / 2
    start = middle - back @ (middle + np.array(change.shift_mm) / spacing_mm)
    moved = ndimage.affine_transform(volume.astype(np.float32), back, start, order=3, mode="nearest")
    if np.mean(volume == 0) > EMPTY_ABOVE:
        inside = ndimage.affine_transform((volume > 0).astype(np.float32), back, start, order=1, mode="nearest")
        moved[inside < 0.5] = 0
    return np.clip(moved, 0, 1)


def as_text(change: Change) -> str:
    """The change in words that are the same for equal changes and differ for others."""
    return repr(asdict(change))
