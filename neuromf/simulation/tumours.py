"""The simulated longitudinal cohort: growing tumours in known anatomies, four contrasts per visit, truth per scan.

A tumour is a level set of an anisotropic distance from its start point plus correlated noise, a field that is fixed per
patient: the mask of a visit holds the round(V(t) / voxel) lowest voxels of the brain. So its volume is that of the
growth curve, and the mask of a visit contains those of all smaller volumes. Contrasts other than T1 take tissue means
and the slope of texture on T1 texture from a real participant. A patient depends only on seed and number.

Fields have shape (I, J, K) on a cubic RAS grid; intensities are in units of white matter.

References:
    A novel public MR image dataset of multiple sclerosis patients (Lesjak et al., 2017), Neuroinformatics 15:51:
    patient 19, whose tissue classes (T1 mixture above 0.9, lesions excluded) give the medians in `CONTRASTS`
    SynthSeg (Billot et al., 2023), Med Image Anal 86:102789: contrasts from tissue means
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from neuromf.core.seeds import generator
from neuromf.simulation.anatomies import Anatomy, Grid
from neuromf.simulation.growth_curves import CURVES, MONTHS, Growth, log_volume

NECROSIS, OEDEMA, ENHANCING = 1, 2, 3


class Contrast(NamedTuple):
    """One MRI contrast: healthy tissue and tumour."""

    means: tuple[float, float, float] | None  # CSF, grey and white matter; None: those of the anatomy's T1
    texture: float  # slope on T1 texture
    mass: float  # factor of enhancing tumour
    core: float  # factor of necrosis
    rim: float  # intensity added by oedema


CONTRASTS = {
    "t1c": Contrast((0.23, 0.69, 1.0), 0.7, 2.2, 0.7, 0.0),
    "t1n": Contrast(None, 1.0, 0.85, 0.7, 0.0),
    "t2f": Contrast((0.36, 1.11, 1.0), 0.3, 1.6, 1.3, 0.6),
    "t2w": Contrast((2.56, 1.55, 1.0), -1.0, 1.5, 1.8, 0.5),
}
SCALE = 0.22  # intensity of white matter in files, where 1 is the largest value
WARP_MM, WARP_SIGMA_MM = 6.0, 32.0  # smooth deformation of a patient's anatomy
GAIN_PATIENT, GAIN_SCAN, BIAS_FIELD, NOISE = 0.05, 0.03, 0.04, 0.03
DEPTH_MM = (4.0, 12.0)  # depth of a dural start point below the surface of the brain
SHAPE_NOISE_MM, SHAPE_SIGMA_MM = 2.5, 6.0  # irregular shape of a tumour
CORE_ABOVE_MM3, CORE_FRACTION = 8000.0, 0.25  # necrosis of larger tumours
OEDEMA_MM = 4.0  # width of the oedema rim: gamma(2, 0.5) times this
VISITS = {2: 0.35, 3: 0.25, 4: 0.20, 5: 0.12, 6: 0.08}  # drawn independently of growth: missing completely at random
GAP_YEARS = (4.0, 0.25)  # shape and scale of gamma-distributed intervals between visits
VOLUME_NOISE = 0.06  # standard deviation of measured ln(V + 1)
START_MM3, START_STD = 4000.0, 0.9  # log-normal V0
CAPACITY_MM3, CAPACITY_STD = 40000.0, 0.6  # log-normal K
RATE_PER_YEAR, RATE_STD = 0.15, 0.7  # log-normal initial relative growth rate
AGE_EFFECT, SEX_EFFECT = -0.10, 0.20  # planted: change of ln a per decade above 60 years, and of men (half each way)


class Patient(NamedTuple):
    """Covariates, growth and visits of a patient."""

    number: int
    age: float  # years
    sex: str
    growth: Growth
    t_months: tuple[float, ...]  # from the first visit
    oedema_mm: float
    dural: bool


# --- growth ------------------------------------------------------------------------------------------


def draw_patient(number: int, seed: int, growth_model: str = "gompertz") -> Patient:
    """Patient `number`; samples with K <= V0 are drawn again.

    Arguments:
        growth_model: "treated" adds a treatment during the follow-up; "gompertz" and "logistic" draw the same values.
    """
    random = np.random.default_rng(generator("tumour patient", seed, number).initial_seed())
    age, sex = round(float(random.uniform(30, 85)), 1), "M" if random.random() < 0.4 else "F"
    start = capacity = 0.0
    while capacity <= start:
        start = START_MM3 * math.exp(START_STD * random.normal())
        capacity = CAPACITY_MM3 * math.exp(CAPACITY_STD * random.normal())
    rate = RATE_PER_YEAR * math.exp(RATE_STD * random.normal()) / MONTHS / math.log(capacity / start)
    rate *= math.exp(AGE_EFFECT * (age - 60) / 10 + SEX_EFFECT * (0.5 if sex == "M" else -0.5))
    n_visits = int(random.choice(list(VISITS), p=list(VISITS.values())))
    gaps = MONTHS * random.gamma(*GAP_YEARS, size=n_visits - 1)
    times = tuple(round(float(t), 3) for t in np.concatenate([[0.0], np.cumsum(np.maximum(gaps, 0.5))]))
    oedema, dural = float(OEDEMA_MM * random.gamma(2, 0.5)), bool(random.random() < 0.7)
    treatment = {}
    if growth_model == "treated":
        treatment = {"treatment_start": float(random.uniform(0, times[-1])), "treatment_months": 3.0}
        treatment["treatment_decay"] = float(random.uniform(0.05, 0.3))
    return Patient(number, age, sex, Growth(start, capacity, rate, **treatment), times, oedema, dural)


# --- anatomy and mask --------------------------------------------------------------------------------


def personal_anatomy(anatomy: Anatomy, grid: Grid, number: int, seed: int) -> Anatomy:
    """The anatomy of a patient: mirrored at random, and smoothly deformed."""
    random = generator("tumour anatomy", seed, number)
    maps = np.concatenate([anatomy.fractions, anatomy.texture[None]])
    if torch.rand((), generator=random) < 0.5:
        maps = maps[:, ::-1]
    field = torch.randn((3, *maps.shape[1:]), generator=random).numpy()
    field = ndimage.gaussian_filter(field, [0] + [WARP_SIGMA_MM / grid.spacing_mm] * 3, mode="wrap")
    field *= WARP_MM / grid.spacing_mm / field.std(axis=(1, 2, 3), keepdims=True)
    maps = _pull_back(maps, field)
    return anatomy._replace(fractions=maps[:3], texture=maps[3])


def _pull_back(maps: NDArray, displacement: NDArray) -> NDArray:
    """Maps (C, I, J, K) at x + displacement(x), (3, I, J, K) in voxels; trilinear, 0 outside."""
    n = torch.tensor(maps.shape[1:], dtype=torch.float32)
    points = torch.from_numpy(np.indices(maps.shape[1:]) + displacement).float().movedim(0, -1)
    unit = (2 * points / (n - 1) - 1).flip(-1)  # grid_sample expects the last axis first, in [-1, 1]
    image = torch.from_numpy(np.ascontiguousarray(maps, np.float32))
    return F.grid_sample(image[None], unit[None], align_corners=True)[0].numpy()


def level_field(anatomy: Anatomy, grid: Grid, patient: Patient, seed: int) -> NDArray:
    """Order in which a patient's tumour takes voxels, in mm: infinite outside the brain."""
    random = generator("tumour shape", seed, patient.number)
    start = _start_point(anatomy, grid, patient.dural, random)
    axes = torch.randn((3, 3), generator=random).numpy()
    rotation, _ = np.linalg.qr(axes)
    stretch = np.exp(0.2 * torch.randn(3, generator=random).numpy())
    metric = rotation @ np.diag(stretch / stretch.prod() ** (1 / 3))
    offset = (np.indices((grid.n,) * 3) - start[:, None, None, None]) * grid.spacing_mm
    distance = np.sqrt((np.tensordot(metric.T, offset, 1) ** 2).sum(0))
    noise = torch.randn((grid.n,) * 3, generator=random).numpy()
    noise = ndimage.gaussian_filter(noise, SHAPE_SIGMA_MM / grid.spacing_mm, mode="wrap")
    return np.where(anatomy.brain, distance + SHAPE_NOISE_MM * noise / noise.std(), np.inf)


def _start_point(anatomy: Anatomy, grid: Grid, dural: bool, random: torch.Generator) -> NDArray:
    """A voxel below the surface of the brain, or in white matter."""
    depth = grid.spacing_mm * ndimage.distance_transform_edt(anatomy.brain)
    below = (depth >= max(DEPTH_MM[0], grid.spacing_mm)) & (depth <= max(DEPTH_MM[1], 2 * grid.spacing_mm))
    white = (anatomy.fractions[2] > 0.7) & (depth > DEPTH_MM[1])
    voxels = np.argwhere(below if dural or not white.any() else white)
    return voxels[int(torch.randint(len(voxels), (), generator=random))]


def tumour_labels(level: NDArray, grid: Grid, volume_mm3: float, oedema_mm: float) -> NDArray:
    """Label map (I, J, K), uint8: necrosis 1, oedema 2, enhancing 3; mass (1 and 3) of round(V / voxel) voxels.

    Arguments:
        level: Order of voxels, from `level_field`.
        volume_mm3: Volume of the mass.
        oedema_mm: Width of the rim of oedema around the mass.
    """
    n_voxels = min(int(round(volume_mm3 / grid.spacing_mm**3)), int(np.isfinite(level).sum()))
    order = np.argsort(level, axis=None, kind="stable")
    labels = np.zeros(level.shape, np.uint8)
    labels.flat[order[:n_voxels]] = ENHANCING
    if volume_mm3 > CORE_ABOVE_MM3:
        labels.flat[order[: int(CORE_FRACTION * n_voxels)]] = NECROSIS
    if n_voxels:
        beyond = grid.spacing_mm * ndimage.distance_transform_edt(labels == 0)
        labels[(labels == 0) & np.isfinite(level) & (beyond <= oedema_mm)] = OEDEMA
    return labels


def displace(anatomy: Anatomy, labels: NDArray, grid: Grid, strength: float) -> Anatomy:
    """Mass effect: tissue around the mass is pushed radially, decaying with distance and to 0 at the brain's surface.

    The brain mask, and so its volume, is unchanged.

    Arguments:
        strength: Displacement at the border of the mass as a fraction of its radius, in [0, 0.5].
    """
    mass = np.isin(labels, (NECROSIS, ENHANCING))
    if not strength or not mass.any():
        return anatomy
    radius = (3 * mass.sum() / (4 * math.pi)) ** (1 / 3)
    offset = np.indices(mass.shape) - np.argwhere(mass).mean(0)[:, None, None, None]
    direction = offset / np.maximum(np.linalg.norm(offset, axis=0), 1e-6)
    distance, depth = ndimage.distance_transform_edt(~mass), ndimage.distance_transform_edt(anatomy.brain)
    push = strength * radius * np.exp(-distance / radius) * np.clip(depth * grid.spacing_mm / 10 - 0.5, 0, 1)
    moved = _pull_back(np.concatenate([anatomy.fractions, anatomy.texture[None]]), -push * direction)
    fractions = moved[:3] / np.maximum(moved[:3].sum(0), 1e-6) * anatomy.fractions.sum(0)
    return anatomy._replace(fractions=np.where(anatomy.brain, fractions, anatomy.fractions), texture=moved[3])


# --- images ------------------------------------------------------------------------------------------


def contrast_image(anatomy: Anatomy, labels: NDArray, contrast: Contrast) -> NDArray:
    """Noise-free image (I, J, K) of one contrast: tissue means and texture, then tumour."""
    means = np.array(contrast.means or anatomy.t1_means)
    mass = np.isin(labels, (NECROSIS, ENHANCING))
    csf, grey, white = anatomy.fractions
    solid = np.stack([np.where(mass, 0, csf), np.where(mass, grey + csf, grey), white])  # a mass holds no fluid
    image = np.tensordot(means, solid, 1) + contrast.texture * anatomy.texture
    factor = np.select([labels == ENHANCING, labels == NECROSIS], [contrast.mass, contrast.core], 1.0)
    return np.maximum(image * factor + contrast.rim * (labels == OEDEMA), 0) * anatomy.brain


def scan_images(anatomy: Anatomy, labels: NDArray, *, number: int, visit: int, seed: int) -> dict[str, NDArray]:
    """Images in [0, 1] by contrast, as stored: gain of patient and scan, bias field, noise; 0 outside the brain."""
    patient, scan = generator("tumour gain", seed, number), generator("tumour scan", seed, number, visit)
    images = {}
    for name, contrast in CONTRASTS.items():
        gain = math.exp(
            GAIN_PATIENT * float(torch.randn((), generator=patient))
            + GAIN_SCAN * float(torch.randn((), generator=scan))
        )
        image = gain * contrast_image(anatomy, labels, contrast) * _bias_field(labels.shape, scan).numpy()
        image = image + NOISE * torch.randn(labels.shape, generator=scan).numpy()
        images[name] = np.clip(SCALE * image, 0, 1) * anatomy.brain
    return images


def _bias_field(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    field = torch.randn((1, 1, 4, 4, 4), generator=random)
    return (BIAS_FIELD * F.interpolate(field, size=shape, mode="trilinear", align_corners=True)[0, 0]).exp()


# --- one patient -------------------------------------------------------------------------------------


def simulate_patient(
    number: int, anatomy: Anatomy, grid: Grid, *, seed: int, growth_model: str = "gompertz", mass_effect: float = 0.0
) -> list[tuple[dict[str, NDArray], NDArray, dict[str, Any]]]:
    """Images by contrast, label map and truth of every visit of patient `number`.

    Arguments:
        growth_model: Key of `growth_curves.CURVES`.
        mass_effect: As `strength` of `displace`.
    """
    patient = draw_patient(number, seed, growth_model)
    own = personal_anatomy(anatomy, grid, number, seed)
    level = level_field(own, grid, patient, seed)
    noise = torch.randn(len(patient.t_months), generator=generator("tumour volume", seed, number)).tolist()
    visits = []
    for visit, t in enumerate(patient.t_months):
        volume = float(CURVES[growth_model](t, patient.growth))
        labels = tumour_labels(level, grid, volume, patient.oedema_mm)
        images = scan_images(displace(own, labels, grid, mass_effect), labels, number=number, visit=visit, seed=seed)
        measured = float(np.expm1(log_volume(volume) + VOLUME_NOISE * noise[visit]))
        visits.append((images, labels, _truth(patient, anatomy, labels, grid, t, volume, max(measured, 0.0))))
    return visits


def _truth(
    patient: Patient, anatomy: Anatomy, labels: NDArray, grid: Grid, t: float, volume: float, measured: float
) -> dict[str, Any]:
    """What is known of a scan; the centroid of the mass is in mm, NaN without a voxel."""
    mass = np.argwhere(np.isin(labels, (NECROSIS, ENHANCING)))
    centroid = grid.affine[:3, 3] + grid.spacing_mm * (mass.mean(0) if len(mass) else np.full(3, np.nan))
    growth = patient.growth
    return {
        "patient_id": f"SIM{patient.number:04d}",
        "anatomy": anatomy.name,
        "t_months": t,
        "V_mm3": measured,
        "y": float(log_volume(measured)),
        "sigma_v": VOLUME_NOISE,
        "age": round(patient.age + t / MONTHS, 2),
        "sex": patient.sex,
        "device": "simulated",
        "V_true_mm3": volume,
        "V_mask_mm3": len(mass) * grid.spacing_mm**3,
        "a_per_month": growth.rate,
        "K_mm3": growth.capacity_mm3,
        "V0_mm3": growth.initial_mm3,
        **dict(zip(("centroid_x_mm", "centroid_y_mm", "centroid_z_mm"), centroid.tolist(), strict=True)),
        "dural": patient.dural,
        "oedema_mm": patient.oedema_mm,
    }
