"""The embedded cohort: brains of different participants, simulated from one anatomy, without a download.

The MNI152 T1 template and its tissue maps (shipped with nilearn) are deformed by a smooth diffeomorphism,
re-proportioned (ventricles, cortical thickness) and re-contrasted. The scanner adds an oblique pose, a bias field and
noise, on a grid with the axes and field of view of IXI at half its resolution. A participant depends only on seed and
number.

Arrays are on RAS grids in mm. A deformation is a displacement field (1, 3, I, J, K) in mm from each point of the
participant's brain to the template point whose values it takes. The template is skull-stripped, so there are no faces.

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
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from neuromf.core.seeds import generator
from neuromf.data.nifti import write_volume
from neuromf.data.participants import write_table

logger = logging.getLogger(__name__)

GRID_MM = 4.0  # spacing of the grid on which deformations are computed; the template has 1 mm
WHITE = 0.7  # intensity of white matter in volumes, below 1 because the bias field can brighten it


@dataclass(frozen=True)
class Variation:
    """Differences between participants: standard deviations, except age_years."""

    age_years: tuple[float, float] = (20.0, 86.0)  # range of a uniform distribution, that of IXI
    lobes_mm: float = 0.4  # displacement smoothed with sigma 12 mm: shape of lobes
    gyri_mm: float = 0.1  # smoothed with sigma 6 mm: course of gyri and sulci
    folds_mm: float = 0.05  # smoothed with sigma 3.5 mm: shape of single folds
    head_mm: float = 2.0  # smoothed with sigma 24 mm: shape of the whole brain
    scale: float = 0.03  # of each axis, in addition to the 7 % between the sexes
    rotation_deg: float = 1.2
    ventricles_mm: float = 1.6  # outward shift of the ventricle wall, in addition to the effect of age
    tissue_bias: float = 0.25  # log odds of grey matter against white matter, and of CSF against both
    contrast: float = 0.05  # T1 intensity of CSF and grey matter, in units of white matter
    bias_field: float = 0.04  # logarithm of the bias field, with features of about 80 mm
    noise: float = 0.008  # Rician noise, in units of white matter


class Template(NamedTuple):
    """MNI152 on its 1 mm grid, and a displacement towards its ventricles on the grid of deformations."""

    maps: Tensor  # (1, 4, I, J, K): fractions of CSF, grey and white matter; T1 texture (T1 minus tissue means)
    box: Tensor  # (2, 3) first and last voxel of the brain along each axis
    affine: NDArray  # (4, 4) voxel to mm
    ventricle_push: Tensor  # (1, 3, i, j, k), maximum length 1


@functools.cache
def load_template() -> Template:
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
    voxels = torch.nonzero(brain)
    box = torch.stack([voxels.min(0).values, voxels.max(0).values])
    return Template(torch.cat([tissue, texture[None, None]], 1), box, images[0].affine, _ventricle_push(csf, brain))


def _ventricle_push(csf: Tensor, brain: Tensor) -> Tensor:
    """Displacement field towards the ventricles: gradient of the smoothed CSF deep inside the brain."""
    csf, brain = F.avg_pool3d(torch.stack([csf, brain])[None], int(GRID_MM))[0].numpy()
    depth_mm = GRID_MM * ndimage.distance_transform_edt(brain > 0.5)
    smooth = ndimage.gaussian_filter(csf * (depth_mm > 22), 7.0 / GRID_MM)
    push = np.stack(np.gradient(smooth))
    return torch.from_numpy((push / np.linalg.norm(push, axis=0).max()).astype(np.float32))[None]


# --- deformation -------------------------------------------------------------------------------------


def smooth_noise(shape: tuple[int, ...], sigma_mm: float, random: torch.Generator) -> NDArray:
    """Noise (C, i, j, k) on the grid of deformations, smoothed with `sigma_mm`, with unit standard deviation."""
    white = torch.randn(shape, generator=random).numpy()
    smooth = ndimage.gaussian_filter(white, [0.0] + [sigma_mm / GRID_MM] * 3, mode="wrap")
    return smooth / smooth.std()


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Displacement of x -> y = x + first(x) -> y + second(y); fields (1, 3, I, J, K) in voxels of their grid."""
    return first + interpolate(second, _voxel_grid(first.shape[2:]) + first[0].movedim(0, -1))


def exponential(velocity: Tensor, n_squarings: int = 6) -> Tensor:
    """Displacement after unit time in a stationary velocity field, by scaling and squaring."""
    displacement = velocity / 2**n_squarings
    for _ in range(n_squarings):
        displacement = compose(displacement, displacement)
    return displacement


def jacobian(displacement: Tensor) -> Tensor:
    """Jacobian determinant (I, J, K) of x -> x + displacement(x)."""
    gradient = torch.stack(torch.gradient(displacement[0], dim=(1, 2, 3)), dim=1)
    return torch.linalg.det(gradient.permute(2, 3, 4, 0, 1) + torch.eye(3))


def diffeomorphism(velocity: Tensor, smallest: float = 0.1) -> tuple[Tensor, float]:
    """Exponential of a velocity field and its smallest Jacobian; the field is damped until that exceeds `smallest`."""
    for _ in range(20):
        displacement = exponential(velocity)
        if (low := float(jacobian(displacement).min())) > smallest:
            return displacement, low
        velocity = 0.8 * velocity
    raise ValueError(f"no diffeomorphism found: the smallest Jacobian is {low:.3f}, but must exceed {smallest}")


def _voxel_grid(shape: torch.Size) -> Tensor:
    """Voxel indices (I, J, K, 3) of a grid."""
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij"), -1)


def interpolate(image: Tensor, points: Tensor) -> Tensor:
    """Values of an image (1, C, I, J, K) at voxel positions (..., 3): trilinear, border value outside."""
    size = torch.tensor(image.shape[2:], dtype=torch.float32)
    unit = (2 * points / (size - 1) - 1).flip(-1)  # grid_sample expects the last axis first, in [-1, 1]
    return F.grid_sample(image, unit[None], align_corners=True, padding_mode="border")


# --- participants ------------------------------------------------------------------------------------


def draw_traits(number: int, seed: int, variation: Variation) -> dict[str, float | str]:
    """Age, sex and proportions of participant `number`, rounded to four decimals as in the participants table."""
    random = generator("person", seed, number)

    def normal(std: float) -> float:
        return std * float(torch.randn((), generator=random))

    low, high = variation.age_years
    age = low + (high - low) * float(torch.rand((), generator=random))
    sex = "M" if float(torch.rand((), generator=random)) < 0.45 else "F"  # 45 % men, as in IXI
    relative_age = (age - (low + high) / 2) / (high - low)  # -0.5 .. 0.5
    size = 0.93 if sex == "M" else 0.87  # MNI152 is larger than the brains it averages
    traits = {
        "age": age,
        "ventricles_mm": 3.2 * relative_age + normal(variation.ventricles_mm),
        "grey_bias": -0.7 * relative_age + normal(variation.tissue_bias),
        "csf_bias": 0.9 * relative_age + normal(variation.tissue_bias),
        "csf_t1": 0.24 + normal(variation.contrast),
        "grey_t1": 0.66 + normal(variation.contrast),
        **{f"scale_{axis}": size * (1 + normal(variation.scale)) for axis in "xyz"},
        **{f"rotation_{axis}_deg": normal(variation.rotation_deg) for axis in "xyz"},
    }
    return {"sex": sex, **{name: round(value, 4) for name, value in traits.items()}}


def draw_deformation(number: int, seed: int, traits: dict, variation: Variation) -> tuple[Tensor, float]:
    """Displacement field (1, 3, i, j, k) of a participant in mm, and its smallest Jacobian."""
    push = load_template().ventricle_push
    random = generator("warp", seed, number)
    velocity = traits["ventricles_mm"] * push.numpy()[0]
    sizes = {12.0: variation.lobes_mm, 6.0: variation.gyri_mm, 3.5: variation.folds_mm, 24.0: variation.head_mm}
    for sigma_mm, size_mm in sizes.items():
        velocity = velocity + size_mm * smooth_noise(tuple(push.shape[1:]), sigma_mm, random)
    displacement, smallest = diffeomorphism(torch.from_numpy(velocity / GRID_MM).float()[None])
    return displacement * GRID_MM, smallest


def tissue_fractions(tissue: Tensor, traits: dict, sharpness: float = 2.0) -> Tensor:
    """Fractions of CSF, grey and white matter (1, 3, I, J, K), sharpened, with a participant's proportions.

    The template averages 152 brains, so its tissue borders are blurred: a power of the fractions sharpens them. A bias
    in log odds moves the borders, which changes cortical thickness and the width of sulci.
    """
    bias = torch.tensor([traits["csf_bias"], traits["grey_bias"], 0.0]).exp().view(1, 3, 1, 1, 1)
    brain = tissue.sum(1, keepdim=True)
    weights = bias * tissue.clamp(min=0) ** sharpness
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-6) * brain


def template_voxels(points: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Template voxels whose values the points of a brain take.

    Arguments:
        points: Template positions before deformation in mm, shape (I, J, K, 3).
        displacement: Deformation in mm, shape (1, 3, i, j, k).

    Returns:
        Mask (I, J, K) of the N points near the brain; voxel positions (N, 1, 1, 3) of these points.
    """
    template = load_template()
    voxels = points - torch.from_numpy(template.affine[:3, 3]).float()  # the template has 1 mm voxels, RAS
    near = ((voxels >= template.box[0] - 20) & (voxels <= template.box[1] + 20)).all(-1)
    voxels = voxels[near][:, None, None]
    return near, voxels + interpolate(displacement, (voxels - (GRID_MM - 1) / 2) / GRID_MM)[0].movedim(0, -1)


def sample_anatomy(points: Tensor, displacement: Tensor, traits: dict) -> tuple[Tensor, Tensor]:
    """T1 intensity (I, J, K) in units of white matter, and tissue fractions (3, I, J, K); see `template_voxels`."""
    near, voxels = template_voxels(points, displacement)
    maps = interpolate(load_template().maps, voxels)
    fractions = tissue_fractions(maps[:, :3], traits)
    means = torch.tensor([traits["csf_t1"], traits["grey_t1"], 1.0]).view(1, 3, 1, 1, 1)
    intensity = (means * fractions).sum(1) + 0.6 * maps[:, 3] * fractions.sum(1)
    result = points.new_zeros((4, *points.shape[:3]))
    result[:, near] = torch.cat([intensity.clamp(min=0), fractions[0]])[:, :, 0, 0]
    return result[0], result[1:]


# --- scanner -----------------------------------------------------------------------------------------


def scanner_affine(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], oblique_deg: float) -> NDArray:
    """Voxel-to-mm affine of a sagittal acquisition: axes P, S, R as in IXI, rotated about the left-right axis."""
    ras_shape = [shape[2], shape[0], shape[1]]
    ras_spacing = np.array([spacing_mm[2], spacing_mm[0], spacing_mm[1]])
    ras = np.eye(4)
    ras[:3, :3] = _rotation(math.radians(oblique_deg), 0.0, 0.0) * ras_spacing
    ras[:3, 3] = -ras[:3, :3] @ ((np.array(ras_shape) - 1) / 2)
    return ras @ np.linalg.inv(inv_ornt_aff(axcodes2ornt("PSR"), shape))


def template_points(affine: NDArray, shape: tuple[int, int, int], traits: dict) -> Tensor:
    """Template positions (I, J, K, 3) in mm of all voxels of a scan, given the participant's pose and size."""
    pose = _rotation(*(math.radians(traits[f"rotation_{axis}_deg"]) for axis in "xyz"))
    size = np.array([traits[f"scale_{axis}"] for axis in "xyz"])
    centre = np.array([0.0, -17.0, 7.0])  # of the template's brain box, in mm
    to_template = (pose / size[:, None]) @ affine[:3, :3]
    offset = (pose / size[:, None]) @ affine[:3, 3] + centre
    return _voxel_grid(torch.Size(shape)) @ torch.from_numpy(to_template.T).float() + torch.from_numpy(offset).float()


def acquire(intensity: Tensor, brain: Tensor, variation: Variation, random: torch.Generator) -> NDArray:
    """Volume (I, J, K) in [0, 1] with bias field and Rician noise; zero outside the brain, as after skull stripping."""
    field = torch.randn((1, 1, 4, 4, 4), generator=random)
    field = F.interpolate(field, size=intensity.shape, mode="trilinear", align_corners=True)[0, 0]
    signal = intensity * (variation.bias_field * field).exp()
    noise = variation.noise * torch.randn((2, *intensity.shape), generator=random)
    magnitude = ((signal + noise[0]) ** 2 + noise[1] ** 2).sqrt() * (brain > 0.5)
    return (WHITE * magnitude).clamp(0, 1).numpy()


def _rotation(x: float, y: float, z: float) -> NDArray:
    """Rotation matrix Rz Ry Rx, angles in radians."""
    return Rotation.from_euler("xyz", (x, y, z)).as_matrix()


def simulate_scan(
    number: int,
    *,
    seed: int,
    variation: Variation,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> tuple[NDArray, NDArray, dict]:
    """T1 volume (I, J, K) in [0, 1] of participant `number`, its voxel-to-mm affine, and the participant's traits.

    The traits include tissue volumes in ml and the smallest Jacobian of the deformation.
    """
    traits = draw_traits(number, seed, variation)
    displacement, smallest = draw_deformation(number, seed, traits, variation)
    random = generator("scanner", seed, number)
    affine = scanner_affine(shape, spacing_mm, oblique_deg=float(4 * torch.randn((), generator=random)))
    intensity, fractions = sample_anatomy(template_points(affine, shape, traits), displacement, traits)
    volume = acquire(intensity, fractions.sum(0), variation, random)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    tissues = zip(("csf", "gm", "wm"), fractions, strict=True)
    tissue_ml = {f"{name}_ml": round(float(fraction.sum()) * voxel_ml, 1) for name, fraction in tissues}
    return volume, affine, {**traits, **tissue_ml, "smallest_jacobian": round(smallest, 4)}


def simulate_cohort(
    *,
    out: Path,
    n_participants: int,
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    variation: dict,
    shard: int = 0,
    n_shards: int = 1,
) -> pd.DataFrame:
    """Write one shard of a simulated cohort as {scan}.nii.gz and participants.tsv, and return the table.

    Arguments:
        out: Folder to write to.
        n_participants: Participants in all shards together; shard k of n takes numbers k, k + n, k + 2n, ...
        seed: Seed of the cohort.
        shape: Voxels of a scan along its axes P, S, R.
        spacing_mm: Voxel size along these axes in mm.
        variation: Fields of `Variation` that differ from their defaults.
    """
    known = {field.name for field in fields(Variation)}
    if unknown := set(variation) - known:
        raise ValueError(f"cohort.embedded.variation has unknown keys {sorted(unknown)}; allowed: {sorted(known)}")
    scanner: Any = {"seed": seed, "variation": Variation(**variation), "shape": shape, "spacing_mm": spacing_mm}
    numbers, rows = range(n_participants)[shard::n_shards], []
    for done, number in enumerate(numbers, start=1):
        volume, affine, traits = simulate_scan(number, **scanner)
        name = f"EMB{number:04d}"
        file = out / f"{name}.nii.gz"
        write_volume(file, volume, affine)
        rows.append({"scan": name, "participant": name, "file": str(file), "mask": "", "site": "embedded", **traits})
        if done % 20 == 0:
            logger.info("embedded cohort: %d of %d participants simulated", done, len(numbers))
    table = pd.DataFrame(rows)
    write_table(table, out / "participants.tsv")
    return table
