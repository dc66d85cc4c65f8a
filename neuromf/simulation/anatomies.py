"""Anatomies of the simulated tumour cohort: T1 texture and tissue fractions of a brain on a cubic RAS grid in mm.

- embedded: participants of `brains`, deformed from MNI152; nothing is downloaded.
- ixi: T1 scans of IXI with DLMUSE label maps, whose tissue is classified by intensity.
- phantom: nested ellipsoids with a folded cortex and ventricles.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.mixture import GaussianMixture

from neuromf.core.parallel import map_in_threads
from neuromf.core.seeds import generator
from neuromf.data.scans import BadScan, read_image, read_scan
from neuromf.simulation import brains

logger = logging.getLogger(__name__)

FINER = 2  # anatomies are sampled on a grid this many times finer and averaged
BOUNDARY = 0.5  # tissue fraction above which a voxel belongs to the brain


class Grid(NamedTuple):
    """A cubic RAS grid centred on the brain."""

    n: int  # voxels per axis
    spacing_mm: float

    @property
    def affine(self) -> NDArray:
        """Voxel-to-mm matrix, (4, 4)."""
        return nib.affines.from_matvec(np.eye(3) * self.spacing_mm, [-self.spacing_mm * (self.n - 1) / 2] * 3)

    def finer(self) -> "Grid":
        return Grid(self.n * FINER, self.spacing_mm / FINER)


class Anatomy(NamedTuple):
    """A brain without tumour."""

    name: str
    fractions: NDArray  # (3, I, J, K): CSF, grey and white matter, in [0, 1]
    texture: NDArray  # (I, J, K): T1 intensity minus that of the tissue means, in units of white matter
    t1_means: NDArray  # (3,): T1 intensity of CSF, grey and white matter, in units of white matter

    @property
    def brain(self) -> NDArray:
        """Brain mask, (I, J, K)."""
        return self.fractions.sum(0) > BOUNDARY


def load_anatomies(kind: str, n: int, grid: Grid, *, seed: int, ixi_root: str | None = None) -> list[Anatomy]:
    """The first `n` anatomies of a kind, fewer if IXI has fewer.

    Arguments:
        kind: "embedded", "ixi" or "phantom".
        ixi_root: Folder with T1/*-T1.nii.gz and dlmuse/*-DLMUSE.nii.gz.

    Raises:
        ValueError: If the kind is unknown, or IXI has no usable scan.
    """
    if kind == "ixi":
        return _ixi_anatomies(Path(ixi_root or ""), n, grid)
    makers: dict[str, Callable[[int, Grid, int], Anatomy]] = {"embedded": embedded_anatomy, "phantom": phantom_anatomy}
    if kind not in makers:
        raise ValueError(f"anatomy must be embedded, ixi or phantom; got {kind!r}")
    if kind == "embedded":
        brains.load_template()  # once, not in every thread
    return map_in_threads(lambda number: makers[kind](number, grid, seed), range(n))


def embedded_anatomy(number: int, grid: Grid, seed: int) -> Anatomy:
    """Participant `number` of `brains` on the grid."""
    variation, fine = brains.Variation(), grid.finer()
    traits = brains.draw_traits(number, seed, variation)
    displacement, _ = brains.draw_deformation(number, seed, traits, variation)
    points = brains.template_points(fine.affine, (fine.n,) * 3, traits)
    intensity, fractions = brains.sample_anatomy(points, displacement, traits)
    means = np.array([traits["csf_t1"], traits["grey_t1"], 1.0])
    maps = F.avg_pool3d(torch.cat([intensity[None], fractions])[None], FINER)[0].numpy()
    return Anatomy(f"EMB{number:04d}", maps[1:], maps[0] - np.tensordot(means, maps[1:], 1), means)


def phantom_anatomy(number: int, grid: Grid, seed: int) -> Anatomy:
    """Nested ellipsoids: skull-stripped brain, white matter whose border is folded by noise, and two ventricles."""
    random = generator("tumour phantom", seed, number)
    fine = grid.finer()
    world = np.stack(np.meshgrid(*[fine.affine[0, 3] + fine.spacing_mm * np.arange(fine.n)] * 3, indexing="ij"))
    axes = np.array([66.0, 82.0, 62.0]) * (1 + 0.04 * torch.randn(3, generator=random).numpy())
    radius = np.sqrt(((world / axes[:, None, None, None]) ** 2).sum(0))
    folds = ndimage.gaussian_filter(torch.randn(radius.shape, generator=random).numpy(), 5.0 / fine.spacing_mm)
    brain, sulci = radius < 1, np.clip(folds / folds.std(), -2, 2)
    white = brain & (radius < 0.84 + 0.06 * sulci)
    side = np.abs(world[0]) - 11
    ventricles = (side / 7) ** 2 + (world[1] / 26) ** 2 + ((world[2] - 6) / 10) ** 2 < 1
    fluid = brain & (ventricles | ((radius > 0.9) & (sulci < -1.2)))
    classes = np.stack([fluid, brain & ~white & ~fluid, white & ~fluid]).astype(np.float32)
    fractions = F.avg_pool3d(torch.from_numpy(classes)[None], FINER)[0].numpy()
    texture = 0.03 * ndimage.gaussian_filter(torch.randn((grid.n,) * 3, generator=random).numpy(), 1.0)
    means = np.array([0.24, 0.66, 1.0])
    return Anatomy(f"PHA{number:04d}", fractions, texture * fractions.sum(0), means)


def _ixi_anatomies(root: Path, n: int, grid: Grid) -> list[Anatomy]:
    """The first `n` usable scans of IXI in the order of their names; unusable ones are logged."""
    anatomies: list[Anatomy] = []
    for path in sorted(root.glob("T1/*-T1.nii.gz")):
        if len(anatomies) == n:
            break
        labels = root / "dlmuse" / path.name.replace("-T1.", "-DLMUSE.")
        try:
            anatomies.append(ixi_anatomy(path, labels, grid))
        except BadScan as error:
            logger.warning("%s is no anatomy, %s", path.name, error)
    if not anatomies:
        raise ValueError(f"no T1/*-T1.nii.gz with dlmuse/*-DLMUSE.nii.gz in {root}; set growth.simulation.ixi_root")
    return anatomies


def ixi_anatomy(path: Path, labels: Path, grid: Grid) -> Anatomy:
    """A T1 scan inside its DLMUSE labels, centred on their bounding box; three tissues by a Gaussian mixture.

    Raises:
        BadScan: If the scan or its label map cannot be used.
    """
    scan, mask = (nib.as_closest_canonical(read(file)) for read, file in ((read_scan, path), (read_image, labels)))
    inside = ndimage.binary_fill_holes(mask.get_fdata() > 0)
    if inside.shape != scan.shape or not inside.any():
        raise BadScan(f"empty mask: {labels.name} has no label on the grid of {path.name}")
    values = scan.get_fdata(dtype=np.float32)
    probabilities, means = _classify_tissue(values[inside])
    maps = np.zeros((4, *inside.shape), np.float32)
    maps[0, inside], maps[1:, inside] = values[inside] / means[2], probabilities
    box = np.argwhere(inside)
    centre = nib.affines.apply_affine(scan.affine, (box.min(0) + box.max(0)) / 2)
    maps = _resample(maps, scan.affine, centre, grid)
    t1 = means / means[2]
    return Anatomy(path.name.split("-")[0], maps[1:], maps[0] - np.tensordot(t1, maps[1:], 1), t1)


def _classify_tissue(values: NDArray) -> tuple[NDArray, NDArray]:
    """Probabilities (3, N) of CSF, grey and white matter for T1 intensities (N,), and the mean of each tissue."""
    high = np.percentile(values, 90)
    mixture = GaussianMixture(3, means_init=high * np.array([[0.3], [0.7], [1.0]]), random_state=0)
    mixture.fit(values[:: max(1, len(values) // 20000), None])
    order = np.argsort(mixture.means_[:, 0])
    return mixture.predict_proba(values[:, None])[:, order].T, mixture.means_[order, 0]


def _resample(maps: NDArray, affine: NDArray, centre: NDArray, grid: Grid) -> NDArray:
    """Maps (C, I, J, K) of a RAS image on the grid, whose centre is the point `centre` in mm; trilinear."""
    fine = grid.finer()
    to_voxel = np.linalg.inv(affine) @ nib.affines.from_matvec(np.eye(3), centre) @ fine.affine
    sampled = [
        ndimage.affine_transform(one, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=(fine.n,) * 3, order=1)
        for one in maps
    ]
    return F.avg_pool3d(torch.from_numpy(np.stack(sampled))[None], FINER)[0].numpy()
