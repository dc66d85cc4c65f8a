"""Volumes of tissues and regions in ml from skull-stripped T1-weighted volumes, without a download.

An affine registration aligns a volume with the MNI152 template of nilearn. A mixture of three Gaussians with a smooth
receive field, and with the tissue maps of the template as its prior, segments CSF, grey and white matter; the template
assigns voxels to parts of the brain. Cerebellum and brain stem are watershed basins of the template's tissue, grown
from seeds in MNI space. The midline is x = 0 mm. A lateral ventricle is CSF nearer to the template's lateral ventricles
than to its other CSF, and at most 16 mm from them. Grey matter includes deep grey matter: over labelled scans its
volume correlated with the labels by 0.6, and by 0.5 relative to the brain size.

Volumes have shape (I, J, K), values in [0, 1], background 0; affines map voxels to mm, RAS+. The amount of CSF outside
the brain depends on the skull stripping.

References:
    Unified segmentation (Ashburner & Friston, 2005), NeuroImage 26:839: mixture, receive field, atlas prior
    Unbiased average age-appropriate atlases (Fonov et al., 2011), NeuroImage 54:313: the template
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.optimize import least_squares

from neuromf.core import parallel
from neuromf.metrics.anatomy import synthseg
from neuromf.metrics.images.spectral import as_volumes

REGIONS = (
    *("left_gm", "right_gm", "left_wm", "right_wm", "left_ventricle", "right_ventricle"),
    *("cerebellum", "brain_stem", "csf"),
)  # label 1 is the first; 0 is background
TOTALS = ("brain", "intracranial")  # all regions without CSF; all regions
FOREGROUND = 0.05  # intensity above which a voxel is foreground
MIN_ML = 200.0  # smallest foreground of a brain
MIN_FIT = 0.5  # smallest correlation with the template, inside the foreground, of a brain
N_FIT = 20_000  # largest number of voxels for the fit of the mixture
TEMPLATE_MM = 2
LEVELS_MM = ((8.0, 8.0), (4.0, 6.0))  # levels of the registration: smoothing width, grid spacing

CEREBRUM, CEREBELLUM, STEM, PERIVENTRICULAR = 1, 2, 3, 4
SEEDS_MM = {  # (|x|, y, z) in MNI space, mirrored to both sides; seeds of the watershed
    CEREBRUM: [(30, 0, 40), (50, -20, -15), (20, -80, 10), (35, 20, -15), (35, -45, -8), (10, -15, 5), (0, 30, 0)],
    CEREBELLUM: [(25, -60, -40), (15, -50, -25), (0, -65, -30)],
    STEM: [(0, -30, -45), (0, -25, -30), (0, -28, -20)],
}
VENTRICLE_SEED_MM = (26, -46, 12)  # atrium of the lateral ventricle, mirrored to both sides
VENTRICLE_DEPTH_MM, VENTRICLE_REACH_MM = 18, 16
# Label by part and tissue (CSF, GM, WM), left side.
LABELS = np.array([[0, 0, 0], [9, 1, 3], [9, 7, 7], [9, 8, 8], [5, 1, 3]], dtype=np.uint8)
SIDED = np.isin(np.arange(10), (1, 3, 5))  # left labels; the label of the right side is the next one


class Atlas(NamedTuple):
    """The MNI152 template at 2 mm, for registration and labelling."""

    to_voxel: NDArray  # (4, 4), mm to voxels
    images: list[NDArray]  # per level (4, I, J, K): smoothed T1 and its gradient per mm
    priors: NDArray  # (3, I, J, K) smoothed probabilities of CSF, grey and white matter
    parts: NDArray  # (I, J, K) part of the brain; outside the brain the nearest part
    centre: NDArray  # (3,) centre of the brain in mm
    brain_ml: float


@functools.cache
def load_atlas() -> Atlas:
    """The template and its derived maps, computed once per process (about 3 s)."""
    from nilearn import datasets

    of = datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template
    images = parallel.map_in_threads(lambda load: load(resolution=TEMPLATE_MM), of)
    affine, (t1, gm, wm) = images[0].affine, (image.get_fdata(dtype=np.float32).clip(0, 1) for image in images)
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    csf = np.clip(brain - gm - wm, 0, 1)
    smooth = [ndimage.gaussian_filter(t1, sigma / 2 / TEMPLATE_MM) for sigma, _ in LEVELS_MM]
    images = [np.stack([x, *np.gradient(x, TEMPLATE_MM)]) for x in smooth]
    priors = np.stack([ndimage.gaussian_filter(tissue, 1.0) for tissue in (csf, gm, wm)])
    centre = nib.affines.apply_affine(affine, np.argwhere(brain).mean(0))
    to_voxel = np.linalg.inv(affine)
    return Atlas(to_voxel, images, priors, _parts(csf, gm + wm, brain, to_voxel), centre, brain.sum() * 8 / 1000)


def _parts(csf: NDArray, tissue: NDArray, brain: NDArray, to_voxel: NDArray) -> NDArray:
    """Part of the brain of each voxel of the template, shape (I, J, K)."""
    from skimage.segmentation import watershed

    markers = np.zeros(brain.shape, np.uint8)
    for part, seeds in SEEDS_MM.items():
        markers[_voxels_of(seeds, to_voxel)] = part
    markers = ndimage.maximum_filter(markers, 3)
    parts = watershed(-ndimage.gaussian_filter(tissue, 0.7), markers, mask=brain)
    deep = (csf > 0.5) & (TEMPLATE_MM * ndimage.distance_transform_edt(brain) > VENTRICLE_DEPTH_MM)
    pieces, _ = ndimage.label(deep & (parts == CEREBRUM))
    ventricles = np.isin(pieces, np.unique(pieces[_voxels_of([VENTRICLE_SEED_MM], to_voxel)])) & (pieces > 0)
    near, far = (ndimage.distance_transform_edt(~x) for x in (ventricles, (csf > 0.5) & ~ventricles))
    around = (near < far) & (TEMPLATE_MM * near < VENTRICLE_REACH_MM)
    parts = np.where(around & (parts == CEREBRUM), PERIVENTRICULAR, parts).astype(np.uint8)
    return parts[tuple(ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True))]


def _voxels_of(seeds_mm: Sequence[tuple[float, float, float]], to_voxel: NDArray) -> tuple[NDArray, ...]:
    """Indices of the voxels at seeds and at their mirror images."""
    seeds = np.array(seeds_mm, dtype=float)
    both = np.concatenate([seeds, seeds * (-1, 1, 1)])
    return tuple(np.rint(nib.affines.apply_affine(to_voxel, both)).astype(int).T)


# --- registration ------------------------------------------------------------------------------------


def align(volume: NDArray, affine: NDArray) -> tuple[NDArray, float]:
    """Affine transform (4, 4) from the volume's mm to MNI mm, and the correlation with the template.

    Minimises the squared intensity differences at two smoothing levels, from equal centres and sizes of the
    foregrounds; an intensity scale is fitted too. The correlation is over foreground voxels.
    """
    atlas, inside = load_atlas(), volume > FOREGROUND
    spacing = nib.affines.voxel_sizes(affine)
    centre = nib.affines.apply_affine(affine, np.argwhere(inside).mean(0))
    scale = (atlas.brain_ml * 1000 / (inside.sum() * spacing.prod())) ** (1 / 3)
    x = np.concatenate([scale * np.eye(3).ravel(), atlas.centre, [1.0]])
    steps = np.concatenate([np.full(9, 0.02), np.full(3, 1.0), [0.1]])
    for (sigma, step), image in zip(LEVELS_MM, atlas.images, strict=True):
        points, values, foreground = _sample(volume, inside, affine, sigma, step)
        residual, slope = _difference(points - centre, values, image, atlas.to_voxel)
        x = least_squares(residual, x, slope, method="lm", x_scale=steps, max_nfev=30, ftol=1e-4, xtol=1e-4).x
    fit = np.corrcoef((residual(x) + values)[foreground], values[foreground])[0, 1]
    matrix = x[:9].reshape(3, 3)
    return nib.affines.from_matvec(matrix, x[9:12] - matrix @ centre), float(fit)


def _sample(
    volume: NDArray, inside: NDArray, affine: NDArray, sigma_mm: float, step_mm: float
) -> tuple[NDArray, NDArray, NDArray]:
    """Positions (N, 3) in mm of a sparse grid around the foreground, smoothed values (N,), and foreground mask (N,)."""
    spacing = nib.affines.voxel_sizes(affine)
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), sigma_mm / 2 / spacing)
    every = tuple(slice(n // 2, None, n) for n in np.maximum(1, np.rint(step_mm / spacing)).astype(int))
    grid = np.stack(np.meshgrid(*(np.arange(n)[s] for n, s in zip(volume.shape, every, strict=True)), indexing="ij"))
    near = ndimage.binary_dilation(inside, iterations=3)[every]
    return nib.affines.apply_affine(affine, grid[:, near].T), smooth[every][near].astype(float), inside[every][near]


def _difference(points: NDArray, values: NDArray, image: NDArray, to_voxel: NDArray) -> tuple:
    """Residual as a function of 13 parameters (matrix, offset, intensity scale), and its Jacobian."""

    def read(x: NDArray, maps: NDArray) -> list[NDArray]:
        placed = nib.affines.apply_affine(to_voxel, points @ x[:9].reshape(3, 3).T + x[9:12]).T
        return [ndimage.map_coordinates(m, placed, order=1, output=np.float64) for m in maps]

    def residual(x: NDArray) -> NDArray:
        return x[12] * read(x, image[:1])[0] - values

    def slope(x: NDArray) -> NDArray:
        value, *slopes = read(x, image)
        by_place = x[12] * np.stack(slopes, axis=1)
        by_matrix = (by_place[:, :, None] * points[:, None, :]).reshape(len(points), 9)
        return np.column_stack([by_matrix, by_place, value])

    return residual, slope


# --- tissues -----------------------------------------------------------------------------------------


def tissue_posterior(values: NDArray, prior: NDArray, field: NDArray, n_iterations: int = 25) -> NDArray:
    """Posterior of CSF, grey and white matter, shape (N, 3), by expectation maximisation.

    The receive field is a linear combination of `field` that multiplies all intensities; it is refitted by weighted
    least squares from the fifth iteration on. The fit uses at most N_FIT voxels.

    Arguments:
        values: Intensities, shape (N,).
        prior: Probabilities of the three tissues from the atlas, shape (N, 3), with row sums of 1.
        field: Smooth functions of position, shape (N, B), the first constant 1.
        n_iterations: Number of iterations.
    """
    some = slice(None, None, -(-len(values) // N_FIT))
    y, p0, basis = values[some], prior[some], field[some]
    means = p0.T @ y / p0.sum(0)
    variances = np.stack([p0[:, k] @ (y - means[k]) ** 2 for k in range(3)]) / p0.sum(0) + 1e-5
    weights, flat = np.ones(3), np.eye(basis.shape[1])[0]
    coefficients, ridge = flat, 1e-3 * len(y)
    for n in range(n_iterations):
        z = y / (basis @ coefficients)
        p = _posterior(z, p0 * weights, means, variances)
        sums = p.sum(0)
        means = p.T @ z / sums
        variances = np.stack([p[:, k] @ (z - means[k]) ** 2 for k in range(3)]) / sums + 1e-5
        weights = sums / p0.sum(0)
        if n >= 4:
            weight, target = p @ (means**2 / variances), (p @ (means / variances)) * y
            normal = (basis * weight[:, None]).T @ basis + ridge * np.eye(len(flat))
            coefficients = np.linalg.solve(normal, basis.T @ target + ridge * flat)
            coefficients = coefficients / (basis @ coefficients).mean()
    return _posterior(values / (field @ coefficients), prior * weights, means, variances)


def _posterior(values: NDArray, prior: NDArray, means: NDArray, variances: NDArray) -> NDArray:
    likelihood = np.exp(-0.5 * (values[:, None] - means) ** 2 / variances) / np.sqrt(variances)
    joint = prior * likelihood + 1e-12
    return joint / joint.sum(axis=1, keepdims=True)


def _field(points: NDArray, order: int = 2) -> NDArray:
    """Polynomials of position up to an order, shape (N, B); the first is 1."""
    x, y, z = ((points - points.mean(0)) / 80).T  # about -1 to 1 over a brain
    powers = [(i, j, k) for i in range(order + 1) for j in range(order + 1 - i) for k in range(order + 1 - i - j)]
    return np.stack([x**i * y**j * z**k for i, j, k in powers], axis=1)


# --- labels and volumes ------------------------------------------------------------------------------


def segment(volume: NDArray, affine: NDArray) -> NDArray:
    """Region of each voxel, shape (I, J, K): 0 is background, 1 the first of REGIONS.

    All voxels are 0 if the volume is empty, constant, too small, or has a correlation with the template below 0.5.

    Arguments:
        volume: One volume in [0, 1], shape (I, J, K).
        affine: Voxel to mm, RAS+, shape (4, 4). The registration tolerates some centimetres and about 30 degrees, so
            a diagonal matrix of voxel sizes suffices.
    """
    volume, affine = as_volumes(np.asarray(volume)[None])[0], check_affine(affine)
    labels, bright = np.zeros(volume.shape, np.uint8), volume > FOREGROUND
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    if bright.sum() * ml < MIN_ML or np.ptp(volume[bright]) < 1e-3:
        return labels
    to_mni, fit = align(volume, affine)
    inside = ndimage.binary_fill_holes(bright)
    points = nib.affines.apply_affine(to_mni @ affine, np.argwhere(inside))
    if not fit > MIN_FIT or not np.isfinite(points).all():
        return labels
    atlas = load_atlas()
    voxels = nib.affines.apply_affine(atlas.to_voxel, points)
    prior = 0.02 + np.stack([ndimage.map_coordinates(m, voxels.T, order=1) for m in atlas.priors], axis=1)
    prior = prior / prior.sum(axis=1, keepdims=True)
    posterior = tissue_posterior(volume[inside].astype(float), prior, _field(points))
    last = np.array(atlas.parts.shape) - 1
    part = atlas.parts[tuple(np.clip(np.rint(voxels), 0, last).astype(int).T)]
    left = LABELS[part, posterior.argmax(axis=1)]
    labels[inside] = left + (SIDED[left] & (points[:, 0] > 0))
    return labels


def check_affine(affine: ArrayLike) -> NDArray:
    """An invertible (4, 4) affine."""
    a = np.asarray(affine, dtype=float)
    if a.shape != (4, 4) or not np.isfinite(a).all() or abs(np.linalg.det(a[:3, :3])) < 1e-9:
        raise ValueError(f"affine must be an invertible (4, 4) matrix of voxels to mm; got {a.tolist()}")
    return a


def volumes(volumes: ArrayLike, affines: ArrayLike, *, method: str = "atlas") -> pd.DataFrame:
    """Volume of each region in ml, a row per volume; NaN if a volume is no brain.

    Arguments:
        volumes: Volumes in [0, 1], shape (N, I, J, K).
        affines: Voxel to mm, shape (4, 4) for all volumes, or (N, 4, 4).
        method: "atlas", the segmentation of this module, or "synthseg", which needs mri_synthseg.

    Returns:
        Columns of REGIONS; brain, their sum without CSF; intracranial, their sum.
    """
    x = as_volumes(volumes)
    each = np.broadcast_to(np.asarray(affines, dtype=float), (len(x), 4, 4))
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}; got {method!r}")
    return METHODS[method](x, each)[[*REGIONS, *TOTALS]]


def _by_atlas(volumes: NDArray, affines: NDArray) -> pd.DataFrame:
    load_atlas()  # once, before threads ask for it
    labels = parallel.map_in_threads(segment, volumes, affines)
    counts = [np.bincount(one.ravel(), minlength=10)[1:] for one in labels]
    voxel_ml = np.abs(np.linalg.det(affines[:, :3, :3])) / 1000
    table = pd.DataFrame(np.array(counts) * voxel_ml[:, None], columns=list(REGIONS))
    total = table.sum(axis=1)
    fluid = table[["left_ventricle", "right_ventricle", "csf"]].sum(axis=1)
    return table.assign(brain=total - fluid, intracranial=total).where(total > 0)


METHODS = {"atlas": _by_atlas, "synthseg": synthseg.volumes}
