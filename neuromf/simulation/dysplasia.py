"""Simulated focal cortical dysplasia of type II: embedded people in FLAIR, each with one lesion and its true mask.

The lesion grows in the template, from the bottom of a sulcus along the cortex, as far as its volume asks: a field
of a geodesic distance, cheap in grey matter, dearer in white, very dear across fluid. Inside it the cortex is thicker,
its border to white matter is blurred, cortex and white matter are brighter, and in a share of people a funnel tapers
through the white matter to the ventricle (the transmantle sign). A person's deformation and the scanner follow, as in
`phantom`. The mask is this field itself, never a threshold of intensities; it stands where all signs are off, too.
Everything about a person follows from (seed, person number) alone. Fields have shape (I, J, K) on voxels of 1 mm.

References:
    Small focal cortical dysplasia lesions are located at the bottom of a deep sulcus (Besson et al., 2008), Brain
    131:3246: most small ones do; volumes of all from 0.1 to 95 ml (their abstract of 2006)
    Open presurgery MRI dataset of people with epilepsy and FCD type II (Schuch et al., 2023), Sci Data 10:475: lobes
    of the 76 of 85 people whose lesion lies in one of these four alone, sides of all (its participants.tsv)
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

LOBES = {"frontal": 54, "parietal": 15, "temporal": 5, "occipital": 2}  # people of Schuch et al. with a lesion there
LEFT = 46 / 85  # share of lesions on the left, of the same
MEDIAN_ML, SPREAD, SMALLEST_ML, LARGEST_ML = 4.0, 0.7, 1.0, 15.0  # log-normal, drawn again outside of the last two
COSTS = {
    "fluid": 10.0,
    "grey": 1.0,
    "white": 5.0,
    "outside": 50.0,
}  # of a millimetre; fluid parts the walls of a sulcus
REACH = 30  # voxels around a seed in which a lesion grows
EDGE_MM = 1.2  # how softly it ends
FADED = 0.5  # by how much its brightness falls from the bottom of the sulcus to its edge
FUNNEL = {"wide": 0.45, "end_mm": 1.5, "strength": 0.8}  # radius at the cortex as a share of the lesion's
COIL = 2.0  # factor of the bias field of T1
MOTTLE = {"size": 0.05, "sigma_mm": 6.0}  # cortex is not equally bright everywhere: standard deviation, and smoothness
DARKER = 0.3  # what is bright in T1 beyond its tissue, such as the pallidum, is dark here
FLAIR = {"csf_flair": 0.12, "grey_flair": 0.86, "white_flair": 0.74}  # intensities, where white matter of T1 is 1


class Lesion(NamedTuple):
    """Where a lesion is in the template and how large."""

    lobe: str
    side: str  # L or R
    seed: tuple[int, int, int]  # voxel of the template
    target_ml: float  # of the person's own head, without the funnel
    strength: float  # factor of the hyperintensity
    transmantle: bool


class Change(NamedTuple):
    """What a lesion changes, on a box of the template."""

    fields: Tensor  # (1, 3, i, j, k): white matter that became grey (share), brightness and mask field in [0, 1]
    origin: Tensor  # (3,) voxel of the template where the box begins


def draw_lesion(number: int, seed: int, *, transmantle: float) -> Lesion:
    """The lesion of person `number`: lobe and side as often as published, a sulcus in it, volume, strength.

    Arguments:
        transmantle: Share of lesions with a funnel to the ventricle, in [0, 1].
    """
    draw = generator("lesion", seed, number)
    u = torch.rand(4, generator=draw).tolist()
    edges = np.cumsum(list(LOBES.values())) / sum(LOBES.values())
    lobe = list(LOBES)[int(np.searchsorted(edges[:-1], u[0], side="right"))]
    side = "L" if u[1] < LEFT else "R"
    places = cortex.fundi()[lobe, side]
    place = places[int(u[2] * len(places))]
    strength = math.exp(0.15 * float(torch.randn((), generator=draw)))
    volume = 0.0
    while not SMALLEST_ML <= volume <= LARGEST_ML:
        volume = MEDIAN_ML * math.exp(SPREAD * float(torch.randn((), generator=draw)))
    i, j, k = (int(n) for n in place)
    return Lesion(lobe, side, (i, j, k), round(volume, 2), round(strength, 4), u[3] < transmantle)


# --- what --------------------------------------------------------------------------------------------


def change(lesion: Lesion, facts: dict, *, thickening_mm: float, blurring_mm: float) -> Change:
    """What the lesion does to a person's tissue, still in the template.

    Arguments:
        facts: The person, as from `phantom.person`: sizes and the tissue's proportions.
        thickening_mm: How far grey matter grows into white.
        blurring_mm: Full width at half maximum by which their border is blurred.
    """
    end = _nearest_ventricle(lesion.seed) if lesion.transmantle else np.array(lesion.seed)
    box, origin = _box(lesion.seed, end)
    shares = brains.tissue_shares(brains.load_template().maps[(slice(None), slice(3), *box)], facts)[0].numpy()
    seed = np.array(lesion.seed) - origin
    size = math.prod(facts[f"scale_{axis}"] for axis in "xyz")
    distance, radius = _grown(shares, seed, 1000 * lesion.target_ml / size)
    body = 1 / (1 + np.exp(np.clip((distance - radius) / EDGE_MM, -30, 30)))
    tissue = shares[1] + shares[2]
    field = body * tissue
    if lesion.transmantle:
        field = np.maximum(field, _funnel(seed, end - origin, FUNNEL["wide"] * radius, shares))
    bright = np.where(
        field > body * tissue, FUNNEL["strength"] * field, field * (1 - FADED * (distance / radius).clip(0, 1))
    )
    gained = _border(shares, body, thickening_mm, blurring_mm) - shares[1]
    fields = _fenced(np.stack([gained, bright, field]))
    return Change(torch.from_numpy(fields.astype(np.float32))[None], torch.from_numpy(origin).float())


def _box(*points: NDArray | tuple) -> tuple[tuple[slice, ...], NDArray]:
    """Slices of the template that hold what lies within reach of points, and their first voxel."""
    shape = np.array(cortex.average()[1].shape)
    low = np.maximum(np.min(points, axis=0) - REACH, 0)
    high = np.minimum(np.max(points, axis=0) + REACH + 1, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), low


def _nearest_ventricle(seed: tuple[int, int, int]) -> NDArray:
    places = cortex.ventricles()
    return places[((places - np.array(seed)) ** 2).sum(1).argmin()]


def _grown(shares: NDArray, seed: NDArray, volume_mm3: float) -> tuple[NDArray, float]:
    """Geodesic distance from the seed in mm, and the one within which grey and white matter have this volume."""
    costs = np.array([COSTS["fluid"], COSTS["grey"], COSTS["white"]])
    cost = np.einsum("t,tijk->ijk", costs, shares) + COSTS["outside"] * (1 - shares.sum(0)).clip(0, 1)
    low = np.maximum(seed - REACH, 0)
    near = tuple(slice(a, b) for a, b in zip(low, seed + REACH + 1, strict=True))
    distance = np.full(cost.shape, np.inf)
    distance[near] = MCP_Geometric(cost[near]).find_costs([tuple(seed - low)])[0]
    order = np.argsort(distance[near], axis=None)
    volumes = np.cumsum((shares[1] + shares[2])[near].ravel()[order])
    last = min(int(np.searchsorted(volumes, volume_mm3)), len(order) - 1)
    return distance, float(distance[near].ravel()[order[last]])


def _funnel(seed: NDArray, end: NDArray, wide_mm: float, shares: NDArray) -> NDArray:
    """A cone in the white matter from the seed, where it is widest, to the ventricle: a field in [0, 1]."""
    line = (end - seed).astype(float)
    length = max(float(np.linalg.norm(line)), 1.0)
    offset = np.moveaxis(np.indices(shares.shape[1:], dtype=np.float32), 0, -1) - seed
    along = (offset @ line) / length**2
    away = np.linalg.norm(offset - along[..., None] * line, axis=-1)
    radius = FUNNEL["end_mm"] + (max(wide_mm, FUNNEL["end_mm"]) - FUNNEL["end_mm"]) * (1 - along)
    inside = (along >= 0) & (along <= 1)
    return np.clip((radius - away) / 2 + 0.5, 0, 1) * inside * shares[2]


def _border(shares: NDArray, body: NDArray, thickening_mm: float, blurring_mm: float) -> NDArray:
    """The share of grey matter once the cortex has grown and its border is blurred, where the lesion is."""
    _, grey, white = shares
    tissue = grey + white
    if thickening_mm:
        away = ndimage.distance_transform_edt(grey < 0.5)
        grown = np.clip(thickening_mm * np.clip(1.25 * body, 0, 1) - away + 1, 0, 1) * (away > 0) * (body > 0.05)
        grey = np.maximum(grey, grown * tissue)
    if blurring_mm:
        sigma = blurring_mm / math.sqrt(8 * math.log(2))
        smooth = [ndimage.gaussian_filter(values, sigma) for values in (grey, tissue)]
        mixed = tissue * np.clip(smooth[0] / np.maximum(smooth[1], 1e-3), 0, 1)
        grey = grey + body * (mixed - grey)
    return grey


def _fenced(fields: NDArray) -> NDArray:
    """The fields (3, i, j, k) with 0 at the border of the box, so that reading beyond it gives 0."""
    inner = np.zeros(fields.shape[1:], bool)
    inner[1:-1, 1:-1, 1:-1] = True
    return fields * inner


# --- a person ----------------------------------------------------------------------------------------


def scan(
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
    """One person's FLAIR with a lesion.

    Arguments:
        thickening_mm: How far the cortex grows into white matter; each sign is off at 0.
        hyperintensity: Of cortex and white matter in the lesion, as a share of their own signal.
        transmantle: Share of lesions with a funnel to the ventricle.
    Returns:
        Intensities in [0, 1] with shape `shape`, zero outside the brain; the true mask, 0 or 1 (uint8); the
        voxel-to-mm affine; and facts: the person's, lobe, hemisphere, transmantle and lesion_ml (of the mask).
    """
    facts = brains.person(number, seed, variation)
    facts |= _contrast(number, seed, variation)
    lesion = draw_lesion(number, seed, transmantle=transmantle)
    displacement, _ = brains.warp(number, seed, facts, variation)
    draw = generator("flair", seed, number)
    affine = brains.scanner_affine(shape, spacing_mm, oblique_deg=float(4 * torch.randn((), generator=draw)))
    made = change(lesion, facts, thickening_mm=thickening_mm, blurring_mm=blurring_mm)
    near, voxels = brains.template_voxels(brains.head_points(affine, shape, facts), displacement)
    found = torch.stack(_flair(voxels, facts, made, hyperintensity * lesion.strength, _mottle(draw)))
    intensity, brain, field = torch.zeros(3, *shape).masked_scatter_(near, found)
    coil = dataclasses.replace(variation, bias_field=COIL * variation.bias_field)
    volume = brains.acquire(intensity, brain, coil, draw)
    mask = ((field > 0.5) & (brain > 0.5)).numpy().astype(np.uint8)
    lesion_ml = round(float(mask.sum() * abs(np.linalg.det(affine[:3, :3]))) / 1000, 3)
    told = {"lobe": lesion.lobe, "hemisphere": lesion.side, "transmantle": int(lesion.transmantle)}
    return volume, mask, affine, facts | told | {"lesion_ml": lesion_ml}


def _contrast(number: int, seed: int, variation: Variation) -> dict[str, float]:
    """A person's FLAIR intensity of each tissue."""
    draw = generator("contrast", seed, number)
    spread = 0.5 * variation.contrast * torch.randn(len(FLAIR), generator=draw)
    return {name: round(value + float(s), 4) for (name, value), s in zip(FLAIR.items(), spread, strict=True)}


def _mottle(draw: torch.Generator) -> Tensor:
    """Brightness of grey matter from place to place, about 0, on the coarse grid of the template: (1, 1, i, j, k)."""
    shape = tuple(brains.load_template().ventricle_push.shape[2:])
    noise = brains.smooth_noise((1, *shape), MOTTLE["sigma_mm"], draw)
    return torch.from_numpy(MOTTLE["size"] * noise).float()[None]


def _flair(
    voxels: Tensor, facts: dict, made: Change, hyperintensity: float, mottle: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """FLAIR intensity, share of brain and mask field, (N,) each, at voxels (N, 1, 1, 3) of the template."""
    maps = brains.read_at(brains.load_template().maps, voxels)
    gained, bright, field = brains.read_at(made.fields, voxels - made.origin)[0, :, :, 0, 0]
    coarse = (voxels - (brains.GRID_MM - 1) / 2) / brains.GRID_MM
    uneven = brains.read_at(mottle, coarse)[0, 0, :, 0, 0]
    fluid, grey, white = brains.tissue_shares(maps[:, :3], facts)[0, :, :, 0, 0]
    moved = torch.minimum(torch.maximum(gained, -grey), white)
    tissue = (fluid, (grey + moved) * (1 + uneven), white - moved)
    signal = sum(facts[name] * share for name, share in zip(FLAIR, tissue, strict=True))
    signal = signal - DARKER * maps[0, 3, :, 0, 0] * (grey + white)
    return signal.clamp(min=0) * (1 + hyperintensity * bright), fluid + grey + white, field


def write_people(numbers: list[int], folder: Path, *, seed: int, variation: dict, **settings: Any) -> None:
    """Scan people onto disk as BIDS: sub-*/anat/sub-*_FLAIR.nii.gz, their masks *_FLAIR_roi.nii.gz, participants.tsv.

    Arguments:
        settings: Those of `scan`: shape, spacing_mm and the signs.
    """
    rows = []
    for done, number in enumerate(numbers, start=1):
        volume, mask, affine, facts = scan(number, seed=seed, variation=Variation(**variation), **settings)
        name = f"sub-{number:04d}"
        stem = folder / name / "anat" / f"{name}_FLAIR"
        write_volume(stem.with_name(f"{stem.name}.nii.gz"), volume, affine)
        write_mask(stem.with_name(f"{stem.name}_roi.nii.gz"), mask, affine)
        rows.append({"participant_id": name, **facts})
        if done % 12 == 0 or done == len(numbers):
            logger.info("simulated dysplasia: %d of %d people", done, len(numbers))
    write_table(pd.DataFrame(rows), folder / "participants.tsv")
