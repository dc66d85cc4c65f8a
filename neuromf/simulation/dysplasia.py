"""Simulated focal cortical dysplasia (FCD) type II: embedded participants in FLAIR, each with one lesion and its mask.

A lesion grows in the template from the bottom of a sulcus until it has its volume: a level set of a geodesic distance
that is short in grey matter, longer in white matter and very long across fluid. Inside it the cortex is thicker, its
border to white matter is blurred, and both tissues are hyperintense. In some participants a cone tapers through the
white matter to the ventricle (the transmantle sign). The participant's deformation and the scanner follow, as in
`brains`. The mask comes from the level set, never from intensities; it is the same with all signs off.
A participant depends only on seed and number. Fields have shape (I, J, K) on 1 mm voxels.

References:
    Small focal cortical dysplasia lesions are located at the bottom of a deep sulcus (Besson et al., 2008), Brain
    131:3246; their abstract of 2006 reports volumes from 0.1 to 95 ml
    Open presurgery MRI dataset of people with epilepsy and FCD type II (Schuch et al., 2023), Sci Data 10:475: lobes
    of the 76 of 85 participants with a lesion in exactly one of four lobes, hemispheres of all (participants.tsv)
    MRI features of type 2 FCD (Mellerio et al., 2012), AJNR 33:1932: signs, three of them together in 64 %
"""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric
from torch import Tensor

from neuromf.core.seeds import generator
from neuromf.data.nifti import write_mask, write_volume
from neuromf.data.participants import write_table
from neuromf.simulation import brains, cortex
from neuromf.simulation.brains import Variation

logger = logging.getLogger(__name__)

LOBES = {"frontal": 54, "parietal": 15, "temporal": 5, "occipital": 2}  # participants per lobe, Schuch et al.
LEFT = 46 / 85  # fraction of lesions in the left hemisphere, Schuch et al.
MEDIAN_ML, LOG_STD, SMALLEST_ML, LARGEST_ML = 4.0, 0.7, 1.0, 15.0  # truncated log-normal volumes
COSTS = {"fluid": 10.0, "grey": 1.0, "white": 5.0, "outside": 50.0}  # geodesic distance per mm
REACH = 30  # largest extent of a lesion from its seed, in voxels
EDGE_MM = 1.2  # width of the lesion's soft edge
FADING = 0.5  # relative loss of hyperintensity from the bottom of the sulcus to the edge
CONE = {"width": 0.45, "end_mm": 1.5, "strength": 0.8}  # transmantle sign; width relative to the lesion's radius
BIAS_FIELD_FACTOR = 2.0  # relative to T1
TEXTURE = {"std": 0.05, "sigma_mm": 6.0}  # relative texture noise of cortical intensity, and its smoothness
T1_TEXTURE = 0.3  # tissue brighter than its mean in T1, such as the pallidum, is darker in FLAIR
FLAIR = {"csf_flair": 0.12, "grey_flair": 0.86, "white_flair": 0.74}  # intensities in units of white matter in T1


class Lesion(NamedTuple):
    """Position, volume and contrast of a lesion in the template."""

    lobe: str
    side: str  # L or R
    seed: tuple[int, int, int]  # voxel of the template
    target_ml: float  # volume in the participant's brain, without the transmantle sign
    strength: float  # factor of the hyperintensity
    transmantle: bool


class LesionEffect(NamedTuple):
    """Effect of a lesion on a box of the template."""

    fields: Tensor  # (1, 3, i, j, k): fraction of white matter that becomes grey; hyperintensity and mask in [0, 1]
    origin: Tensor  # (3,) first voxel of the box


def draw_lesion(number: int, seed: int, *, transmantle: float) -> Lesion:
    """Lesion of participant `number`, with the published distribution of lobes and hemispheres.

    Arguments:
        transmantle: Fraction of lesions with the transmantle sign, in [0, 1].
    """
    random = generator("lesion", seed, number)
    u = torch.rand(4, generator=random).tolist()
    edges = np.cumsum(list(LOBES.values())) / sum(LOBES.values())
    lobe = list(LOBES)[int(np.searchsorted(edges[:-1], u[0], side="right"))]
    side = "L" if u[1] < LEFT else "R"
    bottoms = cortex.sulcus_bottoms()[lobe, side]
    i, j, k = (int(n) for n in bottoms[int(u[2] * len(bottoms))])
    strength = math.exp(0.15 * float(torch.randn((), generator=random)))
    volume = 0.0
    while not SMALLEST_ML <= volume <= LARGEST_ML:
        volume = MEDIAN_ML * math.exp(LOG_STD * float(torch.randn((), generator=random)))
    return Lesion(lobe, side, (i, j, k), round(volume, 2), round(strength, 4), u[3] < transmantle)


# --- effect on the template --------------------------------------------------------------------------


def lesion_effect(lesion: Lesion, traits: dict, *, thickening_mm: float, blurring_mm: float) -> LesionEffect:
    """Effect of a lesion on a participant's tissue, in the template.

    Arguments:
        traits: Size and tissue proportions of the participant, as from `brains.draw_traits`.
        thickening_mm: Growth of the cortex into white matter in mm.
        blurring_mm: Full width at half maximum of the blurred border between grey and white matter in mm.
    """
    end = _nearest_ventricle(lesion.seed) if lesion.transmantle else np.array(lesion.seed)
    box, origin = _box(lesion.seed, end)
    fractions = brains.tissue_fractions(brains.load_template().maps[(slice(None), slice(3), *box)], traits)[0].numpy()
    seed = np.array(lesion.seed) - origin
    size = math.prod(traits[f"scale_{axis}"] for axis in "xyz")
    distance, radius = _grow(fractions, seed, 1000 * lesion.target_ml / size)
    body = 1 / (1 + np.exp(np.clip((distance - radius) / EDGE_MM, -30, 30)))
    tissue = fractions[1] + fractions[2]
    mask = body * tissue
    if lesion.transmantle:
        mask = np.maximum(mask, _transmantle_cone(seed, end - origin, CONE["width"] * radius, fractions))
    fading = 1 - FADING * (distance / radius).clip(0, 1)
    bright = np.where(mask > body * tissue, CONE["strength"] * mask, mask * fading)
    gained = _changed_grey(fractions, body, thickening_mm, blurring_mm) - fractions[1]
    inner = np.zeros(mask.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True  # zero at the border of the box, so that interpolation outside gives 0
    fields = np.stack([gained, bright, mask]) * inner
    return LesionEffect(torch.from_numpy(fields.astype(np.float32))[None], torch.from_numpy(origin).float())


def _box(*points: NDArray | tuple) -> tuple[tuple[slice, ...], NDArray]:
    """Slices of the template within `REACH` of the points, and the first voxel of this box."""
    shape = np.array(cortex.average()[1].shape)
    low = np.maximum(np.min(points, axis=0) - REACH, 0)
    high = np.minimum(np.max(points, axis=0) + REACH + 1, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), low


def _nearest_ventricle(seed: tuple[int, int, int]) -> NDArray:
    voxels = cortex.ventricles()
    return voxels[((voxels - np.array(seed)) ** 2).sum(1).argmin()]


def _grow(fractions: NDArray, seed: NDArray, volume_mm3: float) -> tuple[NDArray, float]:
    """Geodesic distance from the seed in mm, and the radius within which grey and white matter have this volume."""
    costs = np.array([COSTS["fluid"], COSTS["grey"], COSTS["white"]])
    cost = np.einsum("t,tijk->ijk", costs, fractions) + COSTS["outside"] * (1 - fractions.sum(0)).clip(0, 1)
    low = np.maximum(seed - REACH, 0)
    near = tuple(slice(a, b) for a, b in zip(low, seed + REACH + 1, strict=True))
    distance = np.full(cost.shape, np.inf)
    distance[near] = MCP_Geometric(cost[near]).find_costs([tuple(seed - low)])[0]
    order = np.argsort(distance[near], axis=None)
    volumes = np.cumsum((fractions[1] + fractions[2])[near].ravel()[order])
    last = min(int(np.searchsorted(volumes, volume_mm3)), len(order) - 1)
    return distance, float(distance[near].ravel()[order[last]])


def _transmantle_cone(seed: NDArray, end: NDArray, width_mm: float, fractions: NDArray) -> NDArray:
    """Field in [0, 1] of a cone in white matter from the seed, where it is widest, to the ventricle."""
    line = (end - seed).astype(float)
    length = max(float(np.linalg.norm(line)), 1.0)
    offset = np.moveaxis(np.indices(fractions.shape[1:], dtype=np.float32), 0, -1) - seed
    along = (offset @ line) / length**2
    from_axis = np.linalg.norm(offset - along[..., None] * line, axis=-1)
    radius = CONE["end_mm"] + (max(width_mm, CONE["end_mm"]) - CONE["end_mm"]) * (1 - along)
    inside = (along >= 0) & (along <= 1)
    return np.clip((radius - from_axis) / 2 + 0.5, 0, 1) * inside * fractions[2]


def _changed_grey(fractions: NDArray, body: NDArray, thickening_mm: float, blurring_mm: float) -> NDArray:
    """Fraction of grey matter after thickening of the cortex and blurring of its border inside the lesion."""
    _, grey, white = fractions
    tissue = grey + white
    if thickening_mm:
        depth = ndimage.distance_transform_edt(grey < 0.5)
        grown = np.clip(thickening_mm * np.clip(1.25 * body, 0, 1) - depth + 1, 0, 1) * (depth > 0) * (body > 0.05)
        grey = np.maximum(grey, grown * tissue)
    if blurring_mm:
        sigma = blurring_mm / math.sqrt(8 * math.log(2))
        smooth = [ndimage.gaussian_filter(values, sigma) for values in (grey, tissue)]
        mixed = tissue * np.clip(smooth[0] / np.maximum(smooth[1], 1e-3), 0, 1)
        grey = grey + body * (mixed - grey)
    return grey


# --- scans -------------------------------------------------------------------------------------------


def simulate_scan(
    number: int,
    *,
    seed: int,
    variation: Variation,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    thickening_mm: float = 2.0,
    blurring_mm: float = 3.0,
    hyperintensity: float = 0.35,
    transmantle: float = 0.5,
) -> tuple[NDArray, NDArray, NDArray, dict]:
    """FLAIR volume of participant `number` with a lesion; arguments as in `simulate_cohort`.

    Returns:
        Intensities (I, J, K) in [0, 1], zero outside the brain; lesion mask (I, J, K), uint8; voxel-to-mm affine;
        traits of the participant with lobe, hemisphere, transmantle and lesion_ml (volume of the mask).
    """
    traits = brains.draw_traits(number, seed, variation) | _flair_contrast(number, seed, variation)
    lesion = draw_lesion(number, seed, transmantle=transmantle)
    displacement, _ = brains.draw_deformation(number, seed, traits, variation)
    random = generator("flair", seed, number)
    affine = brains.scanner_affine(shape, spacing_mm, oblique_deg=float(4 * torch.randn((), generator=random)))
    effect = lesion_effect(lesion, traits, thickening_mm=thickening_mm, blurring_mm=blurring_mm)
    near, voxels = brains.template_voxels(brains.template_points(affine, shape, traits), displacement)
    values = _flair(voxels, traits, effect, hyperintensity * lesion.strength, _texture_noise(random))
    intensity, brain, field = torch.zeros(3, *shape).masked_scatter_(near, torch.stack(values))
    coil = dataclasses.replace(variation, bias_field=BIAS_FIELD_FACTOR * variation.bias_field)
    volume = brains.acquire(intensity, brain, coil, random)
    mask = ((field > 0.5) & (brain > 0.5)).numpy().astype(np.uint8)
    lesion_ml = round(float(mask.sum() * abs(np.linalg.det(affine[:3, :3]))) / 1000, 3)
    labels = {"lobe": lesion.lobe, "hemisphere": lesion.side, "transmantle": int(lesion.transmantle)}
    return volume, mask, affine, traits | labels | {"lesion_ml": lesion_ml}


def _flair_contrast(number: int, seed: int, variation: Variation) -> dict[str, float]:
    """FLAIR intensity of each tissue of a participant."""
    random = generator("contrast", seed, number)
    noise = 0.5 * variation.contrast * torch.randn(len(FLAIR), generator=random)
    return {name: round(value + float(e), 4) for (name, value), e in zip(FLAIR.items(), noise, strict=True)}


def _texture_noise(random: torch.Generator) -> Tensor:
    """Relative brightness (1, 1, i, j, k) of grey matter around 0, on the grid of deformations."""
    shape = tuple(brains.load_template().ventricle_push.shape[2:])
    noise = brains.smooth_noise((1, *shape), TEXTURE["sigma_mm"], random)
    return torch.from_numpy(TEXTURE["std"] * noise).float()[None]


def _flair(
    voxels: Tensor, traits: dict, effect: LesionEffect, hyperintensity: float, texture: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """FLAIR intensity, brain fraction and lesion field, each (N,), at template voxels (N, 1, 1, 3)."""
    maps = brains.interpolate(brains.load_template().maps, voxels)
    gained, bright, field = brains.interpolate(effect.fields, voxels - effect.origin)[0, :, :, 0, 0]
    coarse = (voxels - (brains.GRID_MM - 1) / 2) / brains.GRID_MM
    noise = brains.interpolate(texture, coarse)[0, 0, :, 0, 0]
    csf, grey, white = brains.tissue_fractions(maps[:, :3], traits)[0, :, :, 0, 0]
    converted = torch.minimum(torch.maximum(gained, -grey), white)
    tissue = (csf, (grey + converted) * (1 + noise), white - converted)
    signal = sum(traits[name] * fraction for name, fraction in zip(FLAIR, tissue, strict=True))
    signal = signal - T1_TEXTURE * maps[0, 3, :, 0, 0] * (grey + white)
    return signal.clamp(min=0) * (1 + hyperintensity * bright), csf + grey + white, field


def simulate_cohort(*, out: Path, n_participants: int, seed: int, variation: dict, **settings: Any) -> None:
    """Write participants as BIDS: sub-*/anat/sub-*_FLAIR.nii.gz, masks sub-*_FLAIR_roi.nii.gz, participants.tsv.

    Arguments:
        out: Folder to write to.
        n_participants: Number of participants, each with one lesion.
        seed: Seed of the cohort.
        variation: Fields of `brains.Variation` that differ from their defaults.
        shape: Voxels of a scan along its axes P, S, R.
        spacing_mm: Voxel size along these axes in mm.
        thickening_mm: Growth of the cortex into white matter in mm; 0 switches the sign off, as for the next three.
        blurring_mm: Full width at half maximum of the blurred grey-white border in mm.
        hyperintensity: Increase of the signal of cortex and white matter, relative to their own.
        transmantle: Fraction of lesions with the transmantle sign.
    """
    rows = []
    for number in range(n_participants):
        scan = simulate_scan(number, seed=seed, variation=Variation(**variation), **settings)
        volume, mask, affine, traits = scan
        name = f"sub-{number:04d}"
        write_volume(out / name / "anat" / f"{name}_FLAIR.nii.gz", volume, affine)
        write_mask(out / name / "anat" / f"{name}_FLAIR_roi.nii.gz", mask, affine)
        rows.append({"participant_id": name, **traits})
        if (number + 1) % 12 == 0 or number + 1 == n_participants:
            logger.info("simulated FCD: %d of %d participants written", number + 1, n_participants)
    write_table(pd.DataFrame(rows), out / "participants.tsv")
