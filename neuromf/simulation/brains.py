"""The embedded cohort: different people's brains made from one real anatomy, without a download.

The MNI152 T1 template and its tissue maps (packed inside nilearn) are deformed by a smooth
diffeomorphism, re-proportioned (ventricles, cortical thickness), re-contrasted and scanned: an oblique
pose, a bias field, noise, on a grid with the axes and field of view of IXI at half its resolution.
Everything about a person follows from (seed, person number) alone.

Arrays here are on RAS grids in mm; a warp is a displacement field (1, 3, I, J, K) in mm that says
where each point of the person's head reads the template ("pull"). The template is skull-stripped,
so these are brains, not heads: faces cannot be synthesised and need not be removed.

References:
    Unbiased average age-appropriate atlases (Fonov et al., 2011), NeuroImage 54:313: the template
    A Log-Euclidean Framework for Statistics on Diffeomorphisms (Arsigny et al., 2006): scaling and squaring
"""

import functools
import logging
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from neuromf.core.seeds import generator
from neuromf.data.nifti import write_volume

logger = logging.getLogger(__name__)

GRID_MM = 4.0  # the deformation lives on a grid this coarse; the anatomy stays at 1 mm
WHITE = 0.7  # stored intensity of white matter, which leaves room for the receive field


@dataclass(frozen=True)
class Variation:
    """How people differ: one standard deviation each, unless said otherwise."""

    age_years: tuple[float, float] = (20.0, 86.0)  # uniform between, as the range of IXI
    lobes_mm: float = 0.4  # displacement by a field smoothed with sigma 12 mm: shape of lobes
    gyri_mm: float = 0.1  # with sigma 6 mm: course of gyri and sulci
    folds_mm: float = 0.05  # with sigma 3.5 mm: shape of single folds
    head_mm: float = 2.0  # with sigma 24 mm: shape of the head
    scale: float = 0.03  # of each axis, beside the 7 % between the sexes
    rotation_deg: float = 1.2
    ventricles_mm: float = 1.6  # outward shift of the ventricle wall, added to that of age
    tissue_bias: float = 0.25  # in log odds, of grey against white and of CSF against both
    contrast: float = 0.05  # of each tissue's T1 intensity, where white matter is 1
    bias_field: float = 0.04  # of the log of the receive field, features over 80 mm
    noise: float = 0.008  # Rician, where white matter is 1


class Template(NamedTuple):
    """MNI152 on its 1 mm grid, and on the coarse grid the fields that push its structures."""

    maps: Tensor  # (1, 4, I, J, K) shares of CSF, grey and white matter, and what T1 has beyond their means
    box: Tensor  # (2, 3) first and last voxel of the brain along each axis
    affine: np.ndarray  # (4, 4) voxel to mm
    ventricle_push: Tensor  # (1, 3, i, j, k) unit field that points into the ventricles


@functools.cache
def load_template() -> Template:
    """The template and what is derived from it once."""
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    images: list[Any] = [
        nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm", "wm")
    ]
    t1, grey, white = (torch.from_numpy(image.get_fdata(dtype=np.float32) / 255) for image in images)
    brain = torch.from_numpy(ndimage.binary_fill_holes((t1 > 0.05).numpy()).astype(np.float32))
    csf = (brain - grey - white).clamp(0, 1)
    tissue = torch.stack([csf, grey, white])[None]
    tissue = tissue / tissue.sum(1, keepdim=True).clamp(min=1) * brain
    means = (t1 * tissue[0]).sum((1, 2, 3)) / tissue[0].sum((1, 2, 3))
    texture = (t1 - (means.view(3, 1, 1, 1) * tissue[0]).sum(0)) * brain
    where = torch.nonzero(brain)
    box = torch.stack([where.min(0).values, where.max(0).values])
    return Template(torch.cat([tissue, texture[None, None]], 1), box, images[0].affine, _ventricle_push(csf, brain))


def _ventricle_push(csf: Tensor, brain: Tensor) -> Tensor:
    """Unit-maximum field on the coarse grid that points towards the ventricles from around them."""
    csf, brain = F.avg_pool3d(torch.stack([csf, brain])[None], int(GRID_MM))[0].numpy()
    depth_mm = GRID_MM * ndimage.distance_transform_edt(brain > 0.5)
    smooth = ndimage.gaussian_filter(csf * (depth_mm > 22), 7.0 / GRID_MM)
    push = np.stack(np.gradient(smooth))
    return torch.from_numpy((push / np.linalg.norm(push, axis=0).max()).astype(np.float32))[None]


# --- deformation -------------------------------------------------------------------------------------


def smooth_noise(shape: tuple[int, ...], sigma_mm: float, draw: torch.Generator) -> np.ndarray:
    """Vector noise (3, i, j, k) on the coarse grid, smoothed with sigma_mm, with unit standard deviation."""
    white = torch.randn(shape, generator=draw).numpy()
    smooth = ndimage.gaussian_filter(white, [0.0] + [sigma_mm / GRID_MM] * 3, mode="wrap")
    return smooth / smooth.std()


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Displacement of x -> x + first(x) -> y + then(y), fields (1, 3, I, J, K) in voxels of their grid."""
    return first + read_at(then, _voxels(first.shape[2:]) + first[0].movedim(0, -1))


def exponential(velocity: Tensor, n_squarings: int = 6) -> Tensor:
    """Displacement of the flow of a stationary velocity field after unit time (scaling and squaring)."""
    displacement = velocity / 2**n_squarings
    for _ in range(n_squarings):
        displacement = compose(displacement, displacement)
    return displacement


def jacobian(displacement: Tensor) -> Tensor:
    """Determinant of the gradient of x -> x + displacement(x), with shape (I, J, K); 1 where nothing moves."""
    gradient = torch.stack(torch.gradient(displacement[0], dim=(1, 2, 3)), dim=1)
    return torch.linalg.det(gradient.permute(2, 3, 4, 0, 1) + torch.eye(3))


def diffeomorphism(velocity: Tensor, smallest: float = 0.1) -> tuple[Tensor, float]:
    """The flow of a velocity field and its smallest Jacobian, calmed by fifths until that exceeds `smallest`."""
    for _ in range(20):
        displacement = exponential(velocity)
        if (low := float(jacobian(displacement).min())) > smallest:
            return displacement, low
        velocity = 0.8 * velocity
    raise ValueError(f"no diffeomorphism found: the smallest Jacobian is still {low:.3f}, wanted over {smallest}")


def _voxels(shape: torch.Size) -> Tensor:
    """Voxel indices of a grid, with shape (I, J, K, 3)."""
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij"), -1)


def read_at(image: Tensor, points: Tensor) -> Tensor:
    """Values of image (1, C, I, J, K) at voxel positions (..., 3), linear between voxels, the border value outside."""
    size = torch.tensor(image.shape[2:], dtype=torch.float32)
    unit = (2 * points / (size - 1) - 1).flip(-1)  # grid_sample wants the last axis first, in [-1, 1]
    return F.grid_sample(image, unit[None], align_corners=True, padding_mode="border")


# --- a person ----------------------------------------------------------------------------------------


def person(number: int, seed: int, variation: Variation) -> dict[str, float | str]:
    """What is true of person `number`: age, sex, proportions; every value rounded as the table will show it."""
    draw = generator("person", seed, number)

    def normal(sd: float) -> float:
        return sd * float(torch.randn((), generator=draw))

    low, high = variation.age_years
    age = low + (high - low) * float(torch.rand((), generator=draw))
    sex = "M" if float(torch.rand((), generator=draw)) < 0.45 else "F"  # 45 % men, as IXI
    old = (age - (low + high) / 2) / (high - low)  # -0.5 .. 0.5
    size = 0.93 if sex == "M" else 0.87  # MNI152 is larger than the people it was made from
    facts = {
        "age": age,
        "ventricles_mm": 3.2 * old + normal(variation.ventricles_mm),
        "grey_bias": -0.7 * old + normal(variation.tissue_bias),
        "csf_bias": 0.9 * old + normal(variation.tissue_bias),
        "csf_t1": 0.24 + normal(variation.contrast),
        "grey_t1": 0.66 + normal(variation.contrast),
        **{f"scale_{axis}": size * (1 + normal(variation.scale)) for axis in "xyz"},
        **{f"rotation_{axis}_deg": normal(variation.rotation_deg) for axis in "xyz"},
    }
    return {"sex": sex, **{name: round(value, 4) for name, value in facts.items()}}


def warp(number: int, seed: int, facts: dict, variation: Variation) -> tuple[Tensor, float]:
    """Displacement field of a person on the coarse template grid, in mm, and its smallest Jacobian."""
    push = load_template().ventricle_push
    draw = generator("warp", seed, number)
    velocity = facts["ventricles_mm"] * push.numpy()[0]
    sizes = {12.0: variation.lobes_mm, 6.0: variation.gyri_mm, 3.5: variation.folds_mm, 24.0: variation.head_mm}
    for sigma_mm, size_mm in sizes.items():
        velocity = velocity + size_mm * smooth_noise(tuple(push.shape[1:]), sigma_mm, draw)
    displacement, smallest = diffeomorphism(torch.from_numpy(velocity / GRID_MM).float()[None])
    return displacement * GRID_MM, smallest


def tissue_shares(tissue: Tensor, facts: dict, sharpness: float = 2.0) -> Tensor:
    """Shares of CSF, grey and white matter, sharpened and shifted towards a person's proportions.

    The template is an average of 152 people and its borders are soft: a power of the shares makes them
    crisp, and a bias in log odds moves the border, which thickens or thins the cortex and widens the sulci.
    """
    bias = torch.tensor([facts["csf_bias"], facts["grey_bias"], 0.0]).exp().view(1, 3, 1, 1, 1)
    brain = tissue.sum(1, keepdim=True)
    weights = bias * tissue.clamp(min=0) ** sharpness
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-6) * brain


def template_voxels(points: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Which points (I, J, K, 3) of a head, in template mm, are near the brain, and what template voxels they read.

    Returns:
        A mask with shape (I, J, K), and positions with shape (N, 1, 1, 3) of its N points after the deformation.
    """
    template = load_template()
    voxels = points - torch.from_numpy(template.affine[:3, 3]).float()  # the template's voxels are 1 mm, RAS
    near = ((voxels >= template.box[0] - 20) & (voxels <= template.box[1] + 20)).all(-1)
    voxels = voxels[near][:, None, None]
    return near, voxels + read_at(displacement, (voxels - (GRID_MM - 1) / 2) / GRID_MM)[0].movedim(0, -1)


def anatomy(points: Tensor, displacement: Tensor, facts: dict) -> tuple[Tensor, Tensor]:
    """T1 intensity (white matter is 1) and tissue shares of a person at points of the head, in template mm.

    Arguments:
        points: Positions in template space before deformation, with shape (I, J, K, 3), in mm.
        displacement: The person's deformation on the coarse grid, with shape (1, 3, i, j, k), in mm.
        facts: The person, as from `person`.
    Returns:
        Intensity with shape (I, J, K), shares with shape (3, I, J, K).
    """
    near, voxels = template_voxels(points, displacement)
    maps = read_at(load_template().maps, voxels)
    shares = tissue_shares(maps[:, :3], facts)
    means = torch.tensor([facts["csf_t1"], facts["grey_t1"], 1.0]).view(1, 3, 1, 1, 1)
    intensity = (means * shares).sum(1) + 0.6 * maps[:, 3] * shares.sum(1)
    result = points.new_zeros((4, *points.shape[:3]))
    result[:, near] = torch.cat([intensity.clamp(min=0), shares[0]])[:, :, 0, 0]
    return result[0], result[1:]


# --- the scanner -------------------------------------------------------------------------------------


def scanner_affine(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], oblique_deg: float
) -> np.ndarray:
    """Voxel-to-mm affine of a sagittal acquisition: axes P, S, R as in IXI, tilted about left-right."""
    ras_shape = [shape[2], shape[0], shape[1]]
    ras_spacing = np.array([spacing_mm[2], spacing_mm[0], spacing_mm[1]])
    tilt = _rotation(math.radians(oblique_deg), 0.0, 0.0)
    ras = np.eye(4)
    ras[:3, :3] = tilt * ras_spacing
    ras[:3, 3] = -ras[:3, :3] @ ((np.array(ras_shape) - 1) / 2)
    return ras @ np.linalg.inv(inv_ornt_aff(axcodes2ornt("PSR"), shape))


def scan(
    number: int,
    *,
    seed: int,
    variation: Variation,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray, dict]:
    """One person scanned: the T1 volume, its affine and the facts of the participants table.

    Returns:
        Intensities in [0, 1] (white matter about WHITE) with shape `shape`, zero outside the brain;
        the voxel-to-mm affine; the facts, with tissue volumes in ml and the smallest Jacobian.
    """
    facts = person(number, seed, variation)
    displacement, smallest = warp(number, seed, facts, variation)
    draw = generator("scanner", seed, number)
    affine = scanner_affine(shape, spacing_mm, oblique_deg=float(4 * torch.randn((), generator=draw)))
    intensity, shares = anatomy(head_points(affine, shape, facts), displacement, facts)
    volume = acquire(intensity, shares.sum(0), variation, draw)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    tissue_ml = {
        f"{name}_ml": round(float(s.sum()) * voxel_ml, 1) for name, s in zip(("csf", "gm", "wm"), shares, strict=True)
    }
    return volume, affine, {**facts, **tissue_ml, "smallest_jacobian": round(smallest, 4)}


def head_points(affine: np.ndarray, shape: tuple[int, int, int], facts: dict) -> Tensor:
    """Template positions (mm) of every voxel of the scan: scanner to head by the person's pose and size."""
    pose = _rotation(*(math.radians(facts[f"rotation_{axis}_deg"]) for axis in "xyz"))
    size = np.array([facts[f"scale_{axis}"] for axis in "xyz"])
    centre = np.array([0.0, -17.0, 7.0])  # of the template's brain box
    to_head = (pose / size[:, None]) @ affine[:3, :3]
    offset = (pose / size[:, None]) @ affine[:3, 3] + centre
    return _voxels(torch.Size(shape)) @ torch.from_numpy(to_head.T).float() + torch.from_numpy(offset).float()


def acquire(intensity: Tensor, brain: Tensor, variation: Variation, draw: torch.Generator) -> np.ndarray:
    """Receive field, Rician noise and range of the scanner; zero outside the brain, as skull stripping leaves it."""
    field = torch.randn((1, 1, 4, 4, 4), generator=draw)
    field = F.interpolate(field, size=intensity.shape, mode="trilinear", align_corners=True)[0, 0]
    signal = intensity * (variation.bias_field * field).exp()
    noise = variation.noise * torch.randn((2, *intensity.shape), generator=draw)
    magnitude = ((signal + noise[0]) ** 2 + noise[1] ** 2).sqrt() * (brain > 0.5)
    return (WHITE * magnitude).clamp(0, 1).numpy()


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    """Rotation matrix Rz Ry Rx, angles in radians."""
    return Rotation.from_euler("xyz", (x, y, z)).as_matrix()


# --- a cohort ----------------------------------------------------------------------------------------


def write_people(numbers: list[int], folder: Path, *, seed: int, variation: dict, **scanner: Any) -> pd.DataFrame:
    """Scan people onto disk as folder/{scan}.nii.gz; the rows of their participants table."""
    known = {field.name for field in fields(Variation)}
    if unknown := set(variation) - known:
        raise ValueError(f"unknown kind of variation {sorted(unknown)}; allowed: {sorted(known)}")
    rows = []
    for done, number in enumerate(numbers):
        volume, affine, facts = scan(number, seed=seed, variation=Variation(**variation), **scanner)
        name = f"EMB{number:04d}"
        write_volume(folder / f"{name}.nii.gz", volume, affine)
        rows.append(
            {
                "scan": name,
                "person": name,
                "file": str(folder / f"{name}.nii.gz"),
                "mask": "",
                "site": "embedded",
                **facts,
            }
        )
        if done % 20 == 19:
            logger.info("embedded cohort: %d of %d people", done + 1, len(numbers))
    return pd.DataFrame(rows)
