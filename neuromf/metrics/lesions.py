"""Metrics of generated image-mask pairs: volume, place and shape of lesions, and whether image and mask agree.

Masks have shape (N, I, J, K) and values 0 and 1, images the same shape and values in [0, 1], RAS+. Rows have the
columns of `table.row`.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats
from skimage.filters import threshold_otsu

from neuromf.metrics.resampling import mean_interval
from neuromf.metrics.table import row

RING_MM = (2.5, 10.0)  # distances from the lesion between which its ring lies
SHELLS_MM = tuple(np.arange(-7.5, 20.1, 2.5))  # edges of shells around the border of a mask, negative inside
BIAS_FIELD_MM = 12.0  # standard deviation of the Gaussian that estimates the intensity of the surroundings
FINE_MM = 1.25  # voxel size to which volumes are upsampled for the depth in cortex
MIN_LESIONS = 2  # smallest set of lesions whose distribution is compared
PLACE = ("x_mm", "y_mm", "z_mm")
MEANS = ["pieces", "inside", "ring", "contrast", "lesion_brightness", "lesion_auc", "thickening_mm", "dice"]
MEANS += ["hausdorff_mm"]


def as_masks(masks: ArrayLike, name: str = "masks") -> NDArray:
    """Masks (N, I, J, K) as booleans.

    Raises:
        ValueError: If the array is not 4D or has values other than 0 and 1.
    """
    x = np.asarray(masks)
    if x.ndim != 4 or not np.isin(x, (0, 1)).all():
        values = f"values {x.min():g} to {x.max():g}" if x.size else "no values"
        raise ValueError(f"{name} must have shape (N, I, J, K) and values 0 and 1; got shape {x.shape}, {values}")
    return x.astype(bool)


# --- one lesion at a time ----------------------------------------------------------------------------


def describe(images: ArrayLike, masks: ArrayLike, spacing_mm: float) -> pd.DataFrame:
    """Volume, place, number of pieces and contrast of the lesion of each pair.

    Returns:
        One row per pair: ml; x_mm, y_mm, z_mm, the centroid relative to the centre of the brain's bounding box (image
        above 0.1); pieces (26-connected); inside and ring, mean intensities in the lesion and around it; contrast,
        their difference in standard deviations of the brain's intensity. All but ml and pieces are NaN without lesion.
    """
    masks, images = as_masks(masks), np.asarray(images)
    if images.shape != masks.shape:
        raise ValueError(f"images and masks must have one shape; got {images.shape} and {masks.shape}")
    return pd.DataFrame([_describe(*pair, spacing_mm) for pair in zip(images, masks, strict=True)])


def _describe(image: NDArray, mask: NDArray, spacing_mm: float) -> dict:
    brain = image > 0.1
    size = {"ml": mask.sum() * spacing_mm**3 / 1000, "pieces": ndimage.label(mask, np.ones((3, 3, 3)))[1]}
    if not mask.any() or not brain.any():
        return {**size, **dict.fromkeys((*PLACE, "inside", "ring", "contrast"), np.nan)}
    middle = np.array([(axis.min() + axis.max()) / 2 for axis in np.nonzero(brain)])
    place = (np.array(ndimage.center_of_mass(mask)) - middle) * spacing_mm
    around = ring(mask, spacing_mm) & brain
    inside, outside = image[mask].mean(), image[around].mean() if around.any() else np.nan
    contrast = (inside - outside) / image[brain].std()
    return {**size, **dict(zip(PLACE, place, strict=True)), "inside": inside, "ring": outside, "contrast": contrast}


def ring(mask: NDArray, spacing_mm: float) -> NDArray:
    """Voxels whose distance from the lesions of a mask (I, J, K) lies in `RING_MM`."""
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return (distance > RING_MM[0]) & (distance <= RING_MM[1])


def lesion_brightness(images: ArrayLike, masks: ArrayLike) -> NDArray:
    """Mean intensity in each mask, minus the mean intensity of the other images there, (N,); NaN for an empty mask.

    Cortex is bright in every FLAIR, so only the comparison with other brains at the same place shows a lesion.
    """
    return np.array([_mean(x[mask]) for x, mask in zip(difference_to_others(images), as_masks(masks), strict=True)])


def brightness_profile(images: ArrayLike, masks: ArrayLike, spacing_mm: float) -> NDArray:
    """`lesion_brightness` in each of the shells `SHELLS_MM` around the border of the mask: (N, shells)."""
    images, profiles = np.asarray(images, float), []
    brain = images.mean(0) > 0.1
    for x, mask in zip(difference_to_others(images), as_masks(masks), strict=True):
        shells = np.digitize(distance_from_border(mask, spacing_mm), SHELLS_MM) * brain * mask.any()
        profiles.append([_mean(x[shells == k]) for k in range(1, len(SHELLS_MM))])
    return np.array(profiles)


def difference_to_others(images: ArrayLike) -> Iterator[NDArray]:
    """Each image (I, J, K) minus the mean of the other images.

    Raises:
        ValueError: If there is only one image.
    """
    images = np.asarray(images, float)
    if len(images) < 2:
        raise ValueError(f"each image is compared with the others, so two are needed; got {len(images)}")
    total = images.sum(0)
    return (image - (total - image) / (len(images) - 1) for image in images)


def distance_from_border(mask: NDArray, spacing_mm: float) -> NDArray:
    """Distance in mm of each voxel centre from the border of a mask (I, J, K), negative inside."""
    inside, outside = (ndimage.distance_transform_edt(x, sampling=spacing_mm) for x in (mask, ~mask))
    return np.where(mask, spacing_mm / 2 - inside, outside - spacing_mm / 2)


def lesion_auc(images: ArrayLike, masks: ArrayLike) -> NDArray:
    """Area under the ROC curve for finding the mask's voxels in the brain by `difference_to_others`, (N,).

    0.5 is chance. 1 means that the image has a lesion where the mask is, and nowhere else. NaN for an empty mask.
    """
    images, masks = np.asarray(images, float), as_masks(masks)
    triples = zip(images, difference_to_others(images), masks, strict=True)
    return np.array([_auc(x[mask], x[(image > 0.1) & ~mask]) for image, x, mask in triples])


def _auc(inside: NDArray, outside: NDArray) -> float:
    if not len(inside) or not len(outside):
        return np.nan
    return float(stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside)))


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else np.nan


def thickening(images: ArrayLike, masks: ArrayLike, spacing_mm: float) -> NDArray:
    """Thickness in mm of the bright cortical ribbon in each mask, minus that of the other images there, (N,).

    In a slab the mean distance to the nearer face is a quarter of its thickness, so thickness is four times the mean
    depth (see `ribbon`) over all tissue of the mask. A ribbon that fills half of the mask counts half. NaN if a mask
    or its tissue is empty. Hyperintense white matter counts as ribbon, too.
    """
    images, masks = np.asarray(images), as_masks(masks)
    if len(images) < 2:
        raise ValueError(f"each ribbon is compared with the others, so two are needed; got {len(images)}")
    maps = np.stack([ribbon(image, spacing_mm) for image in images])
    differences = []
    for number, mask in enumerate(masks):
        depth, tissue = maps[:, :, mask].sum(-1).T
        thickness = np.divide(4 * depth, tissue, out=np.full(len(images), np.nan), where=tissue > 0)
        others = np.delete(thickness, number)
        differences.append(thickness[number] - _mean(others[np.isfinite(others)]))
    return np.array(differences)


def ribbon(image: NDArray, spacing_mm: float) -> NDArray:
    """Depth in mm in the bright ribbon of a FLAIR (I, J, K), 0 outside, and fraction of tissue: (2, I, J, K).

    Tissue is brighter than 3/4 of the brain's median. Its intensity, divided by its local mean (receive coils are
    inhomogeneous), is split into grey and white matter by the threshold of Otsu (1979). Grey matter is the brighter.
    """
    brain = image > 0.1
    if not brain.any():
        return np.zeros((2, *image.shape), np.float32)
    tissue, sigma = image > 0.75 * np.median(image[brain]), BIAS_FIELD_MM / spacing_mm
    total, weight = (ndimage.gaussian_filter(x * np.float32(1), sigma) for x in (image * tissue, tissue))
    even = np.where(brain, image * weight / np.maximum(total, 1e-3), 0)
    factor = int(np.ceil(spacing_mm / FINE_MM))
    fine = ndimage.zoom(even / threshold_otsu(even[tissue]), factor, order=1, grid_mode=True, mode="nearest")
    depth = ndimage.distance_transform_edt(fine > 1, sampling=spacing_mm / factor) - spacing_mm / factor / 2
    return np.stack([_block_means(x, factor) for x in (depth.clip(0), fine > 0.8)])


def _block_means(x: NDArray, factor: int) -> NDArray:
    return x.reshape([n for side in x.shape for n in (side // factor, factor)]).mean((1, 3, 5), dtype=np.float32)


# --- sets of lesions ---------------------------------------------------------------------------------


def nearest(masks: ArrayLike, real: ArrayLike, spacing_mm: float) -> pd.DataFrame:
    """Most similar real mask of each mask with a lesion: its index, Dice and 95 % Hausdorff distance in mm."""
    masks, real = as_masks(masks), as_masks(real, "real")
    rows = []
    for number in np.flatnonzero(masks.any((1, 2, 3))):
        dices = dice(masks[number], real)
        best = int(dices.argmax()) if dices.any() else _nearest_centroid(masks[number], real)
        distance = hausdorff(masks[number], real[best], spacing_mm)
        rows.append({"number": int(number), "nearest": best, "dice": float(dices[best]), "hausdorff_mm": distance})
    return pd.DataFrame(rows, columns=["number", "nearest", "dice", "hausdorff_mm"])


def dice(mask: NDArray, others: NDArray) -> NDArray:
    """Dice of a boolean mask (...) with each of others (M, ...) or with one mask (...); 1 if both are empty."""
    if others.shape[others.ndim - mask.ndim :] != mask.shape:
        raise ValueError(f"masks must have one shape; got {mask.shape} and {others.shape}")
    axes = tuple(range(others.ndim - mask.ndim, others.ndim))
    shared, sizes = (others & mask).sum(axes), others.sum(axes) + mask.sum()
    return np.divide(2 * shared, sizes, out=np.ones(shared.shape), where=sizes > 0)


def hausdorff(mask: NDArray, other: NDArray, spacing_mm: float) -> float:
    """Symmetric 95 % Hausdorff distance in mm of two masks (I, J, K); NaN if one is empty."""
    if not mask.any() or not other.any():
        return np.nan
    a, b = (torch.from_numpy(np.ascontiguousarray(x))[None, None].float() for x in (mask, other))
    return float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing_mm))


def _nearest_centroid(mask: NDArray, real: NDArray) -> int:
    centroid = np.array(ndimage.center_of_mass(mask))
    distances = [float(np.linalg.norm(ndimage.center_of_mass(x) - centroid)) if x.any() else np.inf for x in real]
    return int(np.argmin(distances))


def evaluate_lesions(
    images: ArrayLike, masks: ArrayLike, reference: tuple[ArrayLike, ArrayLike], spacing_mm: float, *, seed: int = 0
) -> tuple[list[dict], pd.DataFrame]:
    """Metrics of a set of pairs against reference images and masks, and a table with one row per pair.

    Metrics: lesion_fraction, the fraction of masks with a lesion; lesion_ml and `MEANS`, means over lesions;
    volume_wasserstein (log10 ml), place_wasserstein (mean over axes, mm) and left_fraction; lesion_brightness_at, the
    mean brightness in each shell around the border, with the middle of the shell in mm as features.
    """
    images, masks, single = np.asarray(images), as_masks(masks), len(images) == 1
    table = describe(images, masks, spacing_mm)
    table["lesion_brightness"] = np.nan if single else lesion_brightness(images, masks)
    table["lesion_auc"] = np.nan if single else lesion_auc(images, masks)
    table["thickening_mm"] = np.nan if single else thickening(images, masks, spacing_mm)
    table = table.join(nearest(masks, reference[1], spacing_mm).set_index("number"))
    has_lesion = (table["ml"] > 0).to_numpy()
    lesions, known = table[has_lesion], describe(*reference, spacing_mm)
    rows = [fraction("lesion_fraction", has_lesion), average("lesion_ml", lesions["ml"], seed=seed)]
    rows += [average(name, lesions[name], seed=seed) for name in MEANS]
    rows += compare_volume_and_place(known[known["ml"] > 0], lesions)
    if not single:
        shells = brightness_profile(images, masks, spacing_mm)[has_lesion].T
        for middle, values in zip(np.convolve(SHELLS_MM, (0.5, 0.5), "valid"), shells, strict=True):
            rows.append({**average("lesion_brightness_at", values, seed=seed), "features": f"{middle:g} mm"})
    return rows, table


def compare_volume_and_place(known: pd.DataFrame, lesions: pd.DataFrame) -> list[dict]:
    """Wasserstein distances of lesion volumes and places between two tables of `describe`, and the left fraction."""
    n, enough = len(lesions), min(len(known), len(lesions)) >= MIN_LESIONS
    volume = stats.wasserstein_distance(*(np.log10(t["ml"]) for t in (known, lesions))) if enough else np.nan
    place = [stats.wasserstein_distance(known[a], lesions[a]) for a in PLACE] if enough else [np.nan]
    left = fraction("left_fraction", (lesions["x_mm"] < 0).to_numpy())
    return [row("volume_wasserstein", volume, n), row("place_wasserstein", np.mean(place), n), left]


def fraction(metric: str, values: NDArray) -> dict:
    """Row of the fraction of true values, with the Wilson interval."""
    if not len(values):
        return row(metric, np.nan, 0)
    low, high = stats.binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
    return row(metric, values.mean(), len(values), low=low, high=high)


def average(metric: str, values: ArrayLike, *, seed: int = 0, n_boot: int = 200) -> dict:
    """Row of the mean of finite values, with its bootstrap interval if there are at least two."""
    x = np.asarray(values, float)
    x = x[np.isfinite(x)]
    low, high = mean_interval(x, n_boot, seed) if len(x) >= MIN_LESIONS else (np.nan, np.nan)
    return row(metric, _mean(x), len(x), low=low, high=high)
