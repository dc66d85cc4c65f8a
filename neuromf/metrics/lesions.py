"""Lesions of generated pairs beside those of real ones: volume, place, shape, and whether image and mask agree.

Masks have shape (N, I, J, K) and are 0 or 1, RAS+, images likewise in [0, 1]. Rows are those of `table.py`. Hausdorff
distances and Dice are MONAI's, distances of distributions SciPy's.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats
from skimage.filters import threshold_otsu

from neuromf.metrics.table import row

RING_MM = (2.5, 10.0)  # how far from the lesion its ring begins and ends
SHELLS_MM = tuple(np.arange(-7.5, 20.1, 2.5))  # borders of the shells about the border of a mask; inside it negative
EVEN_MM = 12.0  # standard deviation of the field that is taken out before grey and white matter are told apart
FINE_MM = 1.25  # voxels above it are parted before a depth in cortex is taken
FEWEST = 2  # lesions of a set, below which its distribution is not compared
PLACES = ("x_mm", "y_mm", "z_mm")


def as_masks(masks: ArrayLike, name: str = "masks") -> NDArray:
    """Masks (N, I, J, K) as booleans.

    Raises:
        ValueError: If they are not 4D or hold something else than 0 and 1.
    """
    x = np.asarray(masks)
    if x.ndim != 4 or not np.isin(x, (0, 1)).all():
        raise ValueError(f"{name} must have shape (N, I, J, K) and hold 0 and 1; got shape {x.shape}, {_span(x)}")
    return x.astype(bool)


def _span(x: NDArray) -> str:
    return f"values {x.min():g} to {x.max():g}" if x.size else "nothing"


# --- one lesion at a time ----------------------------------------------------------------------------


def describe(images: ArrayLike, masks: ArrayLike, spacing_mm: float) -> pd.DataFrame:
    """Each pair in a row: volume, place and pieces of its lesion, and how much brighter it is than its ring.

    Returns:
        Columns ml; x_mm, y_mm, z_mm, the centroid from the middle of the head (its bounding box, image above 0.1);
        pieces (26-connected); inside and ring, mean intensities; contrast, their difference in standard deviations of
        the head's intensity. Of a mask without lesion all but ml and pieces are NaN.
    """
    masks, images = as_masks(masks), np.asarray(images)
    if images.shape != masks.shape:
        raise ValueError(f"images and masks must have one shape; got {images.shape} and {masks.shape}")
    return pd.DataFrame([_describe(*pair, spacing_mm) for pair in zip(images, masks, strict=True)])


def _describe(image: NDArray, mask: NDArray, spacing_mm: float) -> dict:
    pieces = ndimage.label(mask, np.ones((3, 3, 3)))[1]
    found = {"ml": mask.sum() * spacing_mm**3 / 1000, "pieces": pieces}
    head = image > 0.1
    if not mask.any() or not head.any():
        return {**found, **dict.fromkeys((*PLACES, "inside", "ring", "contrast"), np.nan)}
    ends = np.array(
        [(line[0], line[-1]) for line in (np.flatnonzero(head.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))]
    )
    centre = (np.array(ndimage.center_of_mass(mask)) - ends.mean(1)) * spacing_mm
    around = ring(mask, spacing_mm) & head
    inside, beside = image[mask].mean(), image[around].mean() if around.any() else np.nan
    contrast = (inside - beside) / image[head].std()
    return {**found, **dict(zip(PLACES, centre, strict=True)), "inside": inside, "ring": beside, "contrast": contrast}


def ring(mask: NDArray, spacing_mm: float, reach_mm: tuple[float, float] = RING_MM) -> NDArray:
    """What lies between the two distances from the lesions of a mask (I, J, K)."""
    away = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return (away > reach_mm[0]) & (away <= reach_mm[1])


def excess(images: ArrayLike, masks: ArrayLike) -> NDArray:
    """How much brighter the image of each pair is in its mask than other images of the set are there, (N,).

    Cortex is bright in any FLAIR: only the comparison with other heads at the same place says that a lesion is. NaN
    where a mask is empty.
    """
    masks = as_masks(masks)
    return np.array([_mean(out[mask]) for out, mask in zip(beyond(images), masks, strict=True)])


def profile(images: ArrayLike, masks: ArrayLike, spacing_mm: float) -> NDArray:
    """The same in shells about the border of each mask, those of `SHELLS_MM` in the head of the set: (N, shells)."""
    images, masks = np.asarray(images, float), as_masks(masks)
    head, found = images.mean(0) > 0.1, []
    for out, mask in zip(beyond(images), masks, strict=True):
        shells = np.digitize(from_border(mask, spacing_mm), SHELLS_MM) * head * mask.any()
        found.append([_mean(out[shells == k]) for k in range(1, len(SHELLS_MM))])
    return np.array(found)


def beyond(images: ArrayLike) -> Iterator[NDArray]:
    """Each image (I, J, K) less the mean of the others.

    Raises:
        ValueError: If there is no other.
    """
    images = np.asarray(images, float)
    if len(images) < 2:
        raise ValueError(f"an image is compared with others of its set, so two are needed; got {len(images)}")
    total = images.sum(0)
    return (image - (total - image) / (len(images) - 1) for image in images)


def from_border(mask: NDArray, spacing_mm: float) -> NDArray:
    """Distance in mm of each voxel's centre from the border of a mask (I, J, K), negative inside."""
    within, away = (ndimage.distance_transform_edt(x, sampling=spacing_mm) for x in (mask, ~mask))
    return np.where(mask, spacing_mm / 2 - within, away - spacing_mm / 2)


def agreement(images: ArrayLike, masks: ArrayLike) -> NDArray:
    """Probability that a voxel of the mask stands out of the set more than one of the head outside it, (N,).

    Each image is taken less the mean of the others; 0.5 is chance, 1 an image lesion where the mask is and nowhere
    else. NaN where a mask is empty.
    """
    images, masks = np.asarray(images, float), as_masks(masks)
    return np.array(
        [
            _auc(out[mask], out[(image > 0.1) & ~mask])
            for image, out, mask in zip(images, beyond(images), masks, strict=True)
        ]
    )


def thickening(images: ArrayLike, masks: ArrayLike, spacing_mm: float) -> NDArray:
    """How much thicker the bright ribbon of each pair is in its mask than in others of the set there, mm, (N,).

    In a slab the mean distance to the nearer face is a quarter of its thickness. So four times the mean depth in the
    ribbon (see `ribbon`) is taken over all tissue of the mask: a ribbon that fills half of it counts half. NaN where a
    mask or its tissue is empty. It does not tell thicker cortex from hyperintense white matter: both are ribbon.
    """
    images, masks = np.asarray(images, np.float32), as_masks(masks)
    if len(images) < 2:
        raise ValueError(f"a ribbon is compared with others of its set, so two are needed; got {len(images)}")
    maps = np.stack([ribbon(image, spacing_mm) for image in images])
    found = []
    for number, mask in enumerate(masks):
        depth, tissue = maps[:, :, mask].sum(-1).T
        thick = np.divide(4 * depth, tissue, out=np.full(len(images), np.nan), where=tissue > 0)
        found.append(thick[number] - _mean((other := np.delete(thick, number))[np.isfinite(other)]))
    return np.array(found)


def ribbon(image: NDArray, spacing_mm: float) -> NDArray:
    """Depth in the bright ribbon of a FLAIR (I, J, K), mm, 0 outside, and each voxel's share of tissue: (2, I, J, K).

    Tissue is above 3/4 of the head's median. Its intensity over its local mean (Gaussian of 12 mm: coils are uneven)
    is grey or white matter by the threshold of Otsu (1979), a head at a time; in FLAIR grey matter is the brighter.
    """
    head = image > 0.1
    if not head.any():
        return np.zeros((2, *image.shape), np.float32)
    tissue = image > 0.75 * np.median(image[head])
    total, weight = (ndimage.gaussian_filter(x * np.float32(1), EVEN_MM / spacing_mm) for x in (image * tissue, tissue))
    even = np.where(head, image * weight / np.maximum(total, 1e-3), 0)
    part = int(np.ceil(spacing_mm / FINE_MM))
    fine = ndimage.zoom(even / threshold_otsu(even[tissue]), part, order=1, grid_mode=True, mode="nearest")
    depth = ndimage.distance_transform_edt(fine > 1, sampling=spacing_mm / part) - spacing_mm / part / 2
    return np.stack([_coarse(x, part) for x in (depth.clip(0), fine > 0.8)])


def _coarse(x: NDArray, part: int) -> NDArray:
    """Means over blocks of so many voxels a side."""
    return x.reshape([n for side in x.shape for n in (side // part, part)]).mean((1, 3, 5), dtype=np.float32)


def _auc(inside: NDArray, outside: NDArray) -> float:
    if not len(inside) or not len(outside):
        return np.nan
    return float(stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside)))


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else np.nan


# --- sets of them ------------------------------------------------------------------------------------


def nearest(masks: ArrayLike, real: ArrayLike, spacing_mm: float) -> pd.DataFrame:
    """Each mask with a lesion beside the most similar real one: which it is, Dice, 95 % Hausdorff distance in mm."""
    masks, real = as_masks(masks), as_masks(real, "real")
    rows = []
    for number in np.flatnonzero(masks.any((1, 2, 3))):
        dice = dices(masks[number], real)
        best = int(dice.argmax()) if dice.any() else _nearest_centre(masks[number], real)
        away = hausdorff(masks[number], real[best], spacing_mm)
        rows.append({"number": int(number), "nearest": best, "dice": float(dice[best]), "hausdorff_mm": away})
    return pd.DataFrame(rows, columns=["number", "nearest", "dice", "hausdorff_mm"])


def dices(mask: NDArray, others: NDArray) -> NDArray:
    """Dice of one mask (I, J, K) with each of others (M, I, J, K); of two empty ones 1."""
    shared, sizes = (others & mask).sum((1, 2, 3)), others.sum((1, 2, 3)) + mask.sum()
    return np.divide(2 * shared, sizes, out=np.ones(len(others)), where=sizes > 0)


def hausdorff(mask: NDArray, other: NDArray, spacing_mm: float) -> float:
    """95 % Hausdorff distance of two masks (I, J, K) in mm, symmetric; NaN where one is empty."""
    if not mask.any() or not other.any():
        return np.nan
    a, b = (torch.from_numpy(np.ascontiguousarray(one))[None, None].float() for one in (mask, other))
    return float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing_mm))


def _nearest_centre(mask: NDArray, real: NDArray) -> int:
    centre = np.array(ndimage.center_of_mass(mask))
    gaps = [float(np.linalg.norm(ndimage.center_of_mass(one) - centre)) if one.any() else np.inf for one in real]
    return int(np.argmin(gaps))


def judge(
    images: ArrayLike, masks: ArrayLike, known: tuple[ArrayLike, ArrayLike], spacing_mm: float, *, seed: int = 0
) -> tuple[list[dict], pd.DataFrame]:
    """Rows of a set of pairs against known ones (images and masks of training), and its lesions one by one.

    Metrics: lesion_fraction, the fraction of masks with a lesion; lesion_ml, contrast, lesion_brightness, lesion_auc, thickening_mm,
    pieces, dice and hausdorff_mm, means over lesions; volume_wasserstein (of log10 ml), place_wasserstein (mean of
    three axes, mm) and left_fraction, of where lesions lie; lesion_brightness_at, the brightness in each shell
    about the border of masks, by the middle of the shell in mm (as "features").
    """
    images, masks, theirs = np.asarray(images), as_masks(masks), describe(*known, spacing_mm)
    table = describe(images, masks, spacing_mm)
    alone = len(images) == 1  # these need others to compare with
    table["lesion_brightness"] = np.nan if alone else excess(images, masks)
    table["lesion_auc"] = np.nan if alone else agreement(images, masks)
    table["thickening_mm"] = np.nan if alone else thickening(images, masks, spacing_mm)
    near = nearest(masks, known[1], spacing_mm).set_index("number")
    table = table.join(near)
    there = table[table["ml"] > 0]
    rows = [share("lesion_fraction", (table["ml"] > 0).to_numpy())]
    judged = ("pieces", "inside", "ring", "contrast", "lesion_brightness", "lesion_auc", "thickening_mm", "dice", "hausdorff_mm")
    for name in ("ml", *judged):
        rows.append(average({"ml": "lesion_ml"}.get(name, name), there[name].to_numpy(), seed=seed))
    rows += places(theirs[theirs["ml"] > 0], there)
    if not alone:
        shells = profile(images, masks, spacing_mm)[table["ml"] > 0].T
        middles = np.convolve(SHELLS_MM, (0.5, 0.5), "valid")
        rows += [
            {**average("lesion_brightness_at", shell, seed=seed), "features": f"{at:g} mm"}
            for at, shell in zip(middles, shells, strict=True)
        ]
    return rows, table


def places(known: pd.DataFrame, found: pd.DataFrame) -> list[dict]:
    """How lesions differ from known ones in volume and place."""
    n, enough = len(found), min(len(known), len(found)) >= FEWEST
    size = stats.wasserstein_distance(*(np.log10(t["ml"]) for t in (known, found))) if enough else np.nan
    away = [stats.wasserstein_distance(known[a], found[a]) for a in PLACES] if enough else [np.nan]
    left = share("left_fraction", (found["x_mm"] < 0).to_numpy())
    return [row("volume_wasserstein", size, n), row("place_wasserstein", np.mean(away), n), left]


def share(metric: str, values: NDArray) -> dict:
    """Row of the share of true values, with Wilson's interval."""
    if not len(values):
        return row(metric, np.nan, 0)
    low, high = stats.binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
    return row(metric, values.mean(), len(values), low=low, high=high)


def average(metric: str, values: NDArray, *, seed: int = 0, n_boot: int = 200) -> dict:
    """Row of a mean over finite values, with its bootstrap interval where there are two or more."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        return row(metric, _mean(values), len(values))
    again = np.random.default_rng(seed).choice(values, (n_boot, len(values))).mean(1)
    low, high = np.percentile(again, [2.5, 97.5])
    return row(metric, values.mean(), len(values), low=low, high=high)
